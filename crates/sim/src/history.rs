//! What the clients did and were told, key by key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::linearizability::{Action, Operation, Verdict, check};

/// A key of a bucket; a re-created bucket has another id.
pub type ObjectName = (u64, String);

/// The history of one run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: u64,
    keys: BTreeMap<ObjectName, Vec<Operation>>,
}

/// A moment at which something was called.
#[derive(Clone, Copy, Debug)]
pub struct Called(u64);

/// A write under way. Dropped without an answer, its outcome is unknown: it may take effect at any
/// time from its call on, or never.
#[derive(Debug)]
pub struct Writing {
    history: History,
    client: u64,
    called: u64,
    name: ObjectName,
    unknown: Option<Action>,
}

impl Writing {
    /// The write was answered.
    pub fn answered(mut self, action: Action) {
        self.unknown = None;
        self.history
            .answered(self.client, Called(self.called), &self.name, action);
    }

    /// The write was refused: it has no effect, now or later.
    pub fn refused(mut self) {
        self.unknown = None;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(action) = self.unknown.take() {
            let (client, called) = (self.client, self.called);
            self.history.add(
                &self.name,
                Operation {
                    client,
                    called,
                    returned: None,
                    action,
                },
            );
        }
    }
}

impl History {
    fn tick(&self) -> u64 {
        let mut state = self.state.lock();
        state.now += 1;
        state.now
    }

    /// Notes a call, before it is made.
    pub fn call(&self) -> Called {
        Called(self.tick())
    }

    /// Notes the answer of a call.
    pub fn answered(&self, client: u64, called: Called, name: &ObjectName, action: Action) {
        let returned = Some(self.tick());
        self.add(
            name,
            Operation {
                client,
                called: called.0,
                returned,
                action,
            },
        );
    }

    /// Notes the answers to one call about many keys: they came at one moment.
    pub fn answered_many<'a>(
        &self,
        client: u64,
        called: Called,
        answers: impl IntoIterator<Item = (&'a ObjectName, Action)>,
    ) {
        let returned = Some(self.tick());
        for (name, action) in answers {
            self.add(
                name,
                Operation {
                    client,
                    called: called.0,
                    returned,
                    action,
                },
            );
        }
    }

    /// Notes the call of a write, before it is made. `unknown`: the write as it is known when no
    /// answer comes.
    pub fn writing(&self, client: u64, name: &ObjectName, unknown: Action) -> Writing {
        let called = self.tick();
        Writing {
            history: self.clone(),
            client,
            called,
            name: name.clone(),
            unknown: Some(unknown),
        }
    }

    fn add(&self, name: &ObjectName, operation: Operation) {
        self.state
            .lock()
            .keys
            .entry(name.clone())
            .or_default()
            .push(operation);
    }

    /// Every key that was touched.
    pub fn names(&self) -> Vec<ObjectName> {
        self.state.lock().keys.keys().cloned().collect()
    }

    /// Operations and unknown outcomes.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        let all = state.keys.values().flatten();
        let unknown = all
            .clone()
            .filter(|operation| operation.returned.is_none())
            .count();
        (all.count(), unknown)
    }

    /// A number that is equal for equal histories.
    pub fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hasher};
        let mut hasher = DefaultHasher::new();
        hasher.write(format!("{:?}", self.state.lock().keys).as_bytes());
        hasher.finish()
    }

    /// Checks every key; one paragraph per key whose history no order explains.
    pub fn violations(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut violations = Vec::new();
        for (name, operations) in &state.keys {
            let mut operations = operations.clone();
            operations.sort_by_key(|operation| operation.called);
            if let Err(verdict) = check(&operations) {
                violations.push(explain(name, &operations, &verdict));
            }
        }
        violations
    }
}

fn explain(name: &ObjectName, operations: &[Operation], verdict: &Verdict) -> String {
    let mut text = format!("history of {name:?} is not linearizable:");
    let longest = match verdict {
        Verdict::Undecided { steps } => {
            return format!("history of {name:?} was not decided in {steps} steps");
        }
        Verdict::NotLinearizable { longest } => longest,
    };
    for (index, operation) in operations.iter().enumerate() {
        let place = longest.iter().position(|ordered| *ordered == index);
        let place = place.map_or("  ?".to_owned(), |place| format!("{place:3}"));
        let returned = operation
            .returned
            .map_or("...".to_owned(), |at| at.to_string());
        let Operation {
            client,
            called,
            action,
            ..
        } = operation;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n  {place}  client {client}  {called:5}..{returned:5}  {action:?}"
        );
    }
    text
}
