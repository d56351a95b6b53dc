//! Is there an order of one key's operations, each taking effect between its call and its return,
//! in which every answer is right? The algorithm of Wing and Gong with Lowe's memoisation ("Testing
//! for linearizability", 2017): depth-first over the order, remembering (operations done, state).
//!
//! An operation whose outcome is unknown has no return: it may take effect at any later time, or
//! never. With many of them the search would explode, so it looks only at orders that take as few
//! of them as possible, which loses no explanation (see [`Search`]). It knows nothing of stores; a
//! history is data.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A value that was written; each has its own number.
pub type Value = u32;

/// What an operation did to a key, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Set the value.
    Write(Value),
    /// Set the value unless there is one. `refused`: what it was told, when it was told.
    WriteIfAbsent {
        /// The value.
        value: Value,
        /// Whether it was refused because the key exists.
        refused: Option<bool>,
    },
    /// Removed the value. `existed`: what it was told, when it was told.
    Delete {
        /// Whether there was one.
        existed: Option<bool>,
    },
    /// Saw this value, or that there is none.
    Read(Option<Value>),
}

impl Action {
    /// The state after it, if what it was told fits the state before.
    fn step(self, state: Option<Value>) -> Option<Option<Value>> {
        match self {
            Self::Write(value) => Some(Some(value)),
            Self::WriteIfAbsent { value, refused } => {
                let refuses = state.is_some();
                if refused.is_some_and(|told| told != refuses) {
                    return None;
                }
                Some(if refuses { state } else { Some(value) })
            }
            Self::Delete { existed } => {
                let fits = existed.is_none_or(|told| told == state.is_some());
                fits.then_some(None)
            }
            Self::Read(seen) => (seen == state).then_some(state),
        }
    }
}

/// One operation of a key's history. Moments are unique numbers that grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it.
    pub client: u64,
    /// When it was called.
    pub called: u64,
    /// When its answer came; `None`: the outcome is unknown.
    pub returned: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No order explains the answers. The operations of the longest order that was found.
    NotLinearizable {
        /// Indexes into the history, in that order.
        longest: Vec<usize>,
    },
    /// The search was given up after this many steps.
    Undecided {
        /// Steps.
        steps: u64,
    },
}

/// Steps after which a search is given up.
const STEPS_MAX: u64 = 20_000_000;
const NONE: usize = usize::MAX;

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// The events of operations that are not yet ordered, in time order: a doubly linked list over a
/// vector. Slot 0 is the head.
struct Events {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// By operation: slots of its call and its return.
    slots: Vec<(usize, usize)>,
}

impl Events {
    fn of(history: &[Operation]) -> Self {
        let mut timed: Vec<(u64, Event)> = Vec::with_capacity(history.len() * 2);
        for (index, operation) in history.iter().enumerate() {
            timed.push((operation.called, Event::Call(index)));
            if let Some(returned) = operation.returned {
                timed.push((returned, Event::Return(index)));
            }
        }
        timed.sort_by_key(|(at, event)| (*at, matches!(event, Event::Return(_))));
        let mut slots = vec![(NONE, NONE); history.len()];
        // The head's event is never looked at.
        let mut events = vec![Event::Call(NONE)];
        for (_, event) in timed {
            match event {
                Event::Call(index) => slots[index].0 = events.len(),
                Event::Return(index) => slots[index].1 = events.len(),
            }
            events.push(event);
        }
        let count = events.len();
        let next = (1..=count)
            .map(|slot| if slot < count { slot } else { NONE })
            .collect();
        let previous = (0..count).map(|slot: usize| slot.wrapping_sub(1)).collect();
        Self {
            events,
            next,
            previous,
            slots,
        }
    }

    fn unlink(&mut self, slot: usize) {
        let (before, after) = (self.previous[slot], self.next[slot]);
        self.next[before] = after;
        if after != NONE {
            self.previous[after] = before;
        }
    }

    fn relink(&mut self, slot: usize) {
        let (before, after) = (self.previous[slot], self.next[slot]);
        self.next[before] = slot;
        if after != NONE {
            self.previous[after] = slot;
        }
    }

    fn lift(&mut self, operation: usize) {
        let (call, ret) = self.slots[operation];
        self.unlink(call);
        if ret != NONE {
            self.unlink(ret);
        }
    }

    fn unlift(&mut self, operation: usize) {
        let (call, ret) = self.slots[operation];
        if ret != NONE {
            self.relink(ret);
        }
        self.relink(call);
    }
}

/// Which operations are ordered already.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }
}

/// Checks the history of one key that does not exist before its first operation.
///
/// # Errors
/// Why the history is not accepted.
pub fn check(history: &[Operation]) -> Result<(), Verdict> {
    let history = without_unread_values(history);
    let mut search = Search {
        events: Events::of(&history),
        earlier_alike: earlier_alike(&history),
        done: Done(vec![0; history.len().div_ceil(64)]),
        seen: HashSet::new(),
        state: None,
        order: Vec::new(),
        history: &history,
    };
    let mut unreturned = history.iter().filter(|o| o.returned.is_some()).count();
    let mut longest: Vec<usize> = Vec::new();
    let mut from = search.first(Turn::Answered);
    for _ in 0..STEPS_MAX {
        if unreturned == 0 {
            return Ok(());
        }
        if let Some(index) = search.next(from) {
            search.take(index);
            unreturned -= usize::from(history[index].returned.is_some());
            if search.order.len() > longest.len() {
                longest = search.order.iter().map(|taken| taken.index).collect();
            }
            from = search.first(Turn::Answered);
            continue;
        }
        // An operation returned before anything that may follow: go back.
        let Some(index) = search.give_back() else {
            return Err(Verdict::NotLinearizable { longest });
        };
        unreturned += usize::from(history[index].returned.is_some());
        from = search.after(index);
    }
    Err(Verdict::Undecided { steps: STEPS_MAX })
}

/// The history with one value instead of all those that nobody read: which of them it was makes no
/// difference.
fn without_unread_values(history: &[Operation]) -> Vec<Operation> {
    let seen = |operation: &Operation| match operation.action {
        Action::Read(seen) => seen,
        _ => None,
    };
    let read: BTreeSet<Value> = history.iter().filter_map(seen).collect();
    let unread = (0..=Value::MAX).rev().find(|value| !read.contains(value));
    let unread = unread.unwrap_or_default();
    let mut history = history.to_vec();
    for operation in &mut history {
        match &mut operation.action {
            Action::Write(value) | Action::WriteIfAbsent { value, .. } if !read.contains(value) => {
                *value = unread;
            }
            _ => {}
        }
    }
    history
}

/// By operation without an answer: the one before it, by call, that would do exactly the same.
fn earlier_alike(history: &[Operation]) -> Vec<Option<usize>> {
    let mut by_call: Vec<usize> = (0..history.len()).collect();
    by_call.sort_by_key(|index| history[*index].called);
    let mut last: BTreeMap<Action, usize> = BTreeMap::new();
    let mut earlier = vec![None; history.len()];
    for index in by_call {
        if history[index].returned.is_none() {
            earlier[index] = last.insert(history[index].action, index);
        }
    }
    earlier
}

/// Which operations are tried: answered ones must be ordered, unknown ones only when that helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Answered,
    Unknown,
}

/// Where the search goes on: at a slot of the list, among these operations.
#[derive(Clone, Copy, Debug)]
struct Place {
    turn: Turn,
    slot: usize,
}

/// An operation of the order under trial.
#[derive(Clone, Copy, Debug)]
struct Taken {
    index: usize,
    before: Option<Value>,
}

/// A search for an order.
///
/// If there is an order, there is one with the fewest unknown operations. In such an order
/// 1. an unknown operation changes the state: otherwise it could be left out;
/// 2. what follows an unknown operation would not have gone the same way without it;
/// 3. of unknown operations that would do the same, those called first are taken, in the order of
///    their calls: any other choice can be exchanged for it.
///
/// Orders that break one of these are not tried.
struct Search<'h> {
    history: &'h [Operation],
    events: Events,
    earlier_alike: Vec<Option<usize>>,
    done: Done,
    /// What was tried: operations done, the state, and, since rule 2 asks for it, the state before
    /// when the last operation was an unknown one.
    seen: HashSet<(Done, Option<Value>, Option<Option<Value>>)>,
    state: Option<Value>,
    order: Vec<Taken>,
}

impl Search<'_> {
    fn is_unknown(&self, index: usize) -> bool {
        self.history[index].returned.is_none()
    }

    fn first(&self, turn: Turn) -> Place {
        let slot = self.events.next[0];
        Place { turn, slot }
    }

    /// Behind an operation that was tried.
    fn after(&self, index: usize) -> Place {
        let turn = match self.is_unknown(index) {
            true => Turn::Unknown,
            false => Turn::Answered,
        };
        let slot = self.events.next[self.events.slots[index].0];
        Place { turn, slot }
    }

    /// The next operation that may follow now and was not tried so.
    fn next(&mut self, mut from: Place) -> Option<usize> {
        loop {
            // The list can't end before the return of an answered operation that is not ordered.
            match self.events.events.get(from.slot) {
                Some(Event::Call(index)) => {
                    let index = *index;
                    let unknown = self.is_unknown(index);
                    if unknown == (from.turn == Turn::Unknown) && self.may_follow(index) {
                        return Some(index);
                    }
                    from.slot = self.events.next[from.slot];
                }
                _ if from.turn == Turn::Answered => from = self.first(Turn::Unknown),
                _ => return None,
            }
        }
    }

    /// The state before the last operation, if that is an unknown one.
    fn before_unknown(&self) -> Option<Option<Value>> {
        let last = self.order.last();
        last.filter(|taken| self.is_unknown(taken.index))
            .map(|taken| taken.before)
    }

    fn may_follow(&mut self, index: usize) -> bool {
        let action = self.history[index].action;
        let Some(after) = action.step(self.state) else {
            return false;
        };
        let unknown = self.is_unknown(index);
        if unknown && after == self.state {
            return false;
        }
        if self.before_unknown().map(|before| action.step(before)) == Some(Some(after)) {
            return false;
        }
        if self.earlier_alike[index].is_some_and(|earlier| !self.done.has(earlier)) {
            return false;
        }
        self.done.set(index);
        let before = unknown.then_some(self.state);
        let new = self.seen.insert((self.done.clone(), after, before));
        self.done.clear(index);
        new
    }

    fn take(&mut self, index: usize) {
        let before = self.state;
        self.order.push(Taken { index, before });
        self.done.set(index);
        self.events.lift(index);
        if let Some(after) = self.history[index].action.step(before) {
            self.state = after;
        }
    }

    fn give_back(&mut self) -> Option<usize> {
        let Taken { index, before } = self.order.pop()?;
        self.done.clear(index);
        self.events.unlift(index);
        self.state = before;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn op(client: u64, called: u64, returned: u64, action: Action) -> Operation {
        Operation {
            client,
            called,
            returned: Some(returned),
            action,
        }
    }

    fn unknown(client: u64, called: u64, action: Action) -> Operation {
        Operation {
            client,
            called,
            returned: None,
            action,
        }
    }

    fn read(value: Value) -> Action {
        Action::Read(Some(value))
    }

    const ABSENT: Action = Action::Read(None);

    #[test]
    fn histories_by_hand() {
        use Action::{Delete, Write, WriteIfAbsent};
        let deleted = |existed| Delete {
            existed: Some(existed),
        };
        let once = |value, refused| WriteIfAbsent {
            value,
            refused: Some(refused),
        };
        let cases: Vec<(&str, bool, Vec<Operation>)> = vec![
            ("nothing happened", true, vec![]),
            ("read of nothing", true, vec![op(1, 1, 2, ABSENT)]),
            ("read from nowhere", false, vec![op(1, 1, 2, read(7))]),
            (
                "read own write",
                true,
                vec![op(1, 1, 2, Write(1)), op(1, 3, 4, read(1))],
            ),
            (
                "stale read",
                false,
                vec![
                    op(1, 1, 2, Write(1)),
                    op(1, 3, 4, Write(2)),
                    op(2, 5, 6, read(1)),
                ],
            ),
            (
                "concurrent write may be seen or not",
                true,
                vec![
                    op(1, 1, 2, Write(1)),
                    op(1, 3, 10, Write(2)),
                    op(2, 4, 5, read(1)),
                    op(2, 6, 7, read(2)),
                ],
            ),
            (
                "seen, then unseen",
                false,
                vec![
                    op(1, 1, 2, Write(1)),
                    op(1, 3, 10, Write(2)),
                    op(2, 4, 5, read(2)),
                    op(2, 6, 7, read(1)),
                ],
            ),
            (
                "lost write",
                false,
                vec![op(1, 1, 2, Write(1)), op(2, 3, 4, ABSENT)],
            ),
            (
                "unknown write never happened",
                true,
                vec![unknown(1, 1, Write(1)), op(2, 5, 6, ABSENT)],
            ),
            (
                "unknown write happened late",
                true,
                vec![
                    unknown(1, 1, Write(1)),
                    op(2, 5, 6, ABSENT),
                    op(2, 7, 8, read(1)),
                ],
            ),
            (
                "unknown write came back",
                false,
                vec![
                    unknown(1, 1, Write(1)),
                    op(2, 2, 3, read(1)),
                    op(2, 4, 5, Write(2)),
                    op(2, 6, 7, read(2)),
                    op(2, 8, 9, read(1)),
                ],
            ),
            (
                "applied twice",
                false,
                vec![
                    op(1, 1, 2, Write(1)),
                    op(2, 3, 4, deleted(true)),
                    op(2, 5, 6, read(1)),
                ],
            ),
            (
                "deletion told the truth",
                true,
                vec![
                    op(1, 1, 2, Write(1)),
                    op(2, 3, 4, deleted(true)),
                    op(2, 5, 6, deleted(false)),
                ],
            ),
            (
                "deletion lied",
                false,
                vec![op(1, 1, 2, Write(1)), op(2, 3, 4, deleted(false))],
            ),
            (
                "only the first wins",
                true,
                vec![
                    op(1, 1, 6, once(1, false)),
                    op(2, 2, 5, once(2, true)),
                    op(3, 7, 8, read(1)),
                ],
            ),
            (
                "both won",
                false,
                vec![op(1, 1, 6, once(1, false)), op(2, 2, 5, once(2, false))],
            ),
            (
                "refused without reason",
                false,
                vec![op(1, 1, 2, once(1, true))],
            ),
        ];
        for (name, fine, history) in cases {
            assert_eq!(check(&history).is_ok(), fine, "{name}");
        }
    }

    /// A real register, with calls and returns around random moments of effect.
    fn random_history(rng: &mut StdRng, operations: usize, lost: f64) -> Vec<Operation> {
        let mut state = None;
        let mut history = Vec::new();
        for n in 0..operations {
            let moment = (n as u64 + 1) * 100;
            let value = Value::try_from(n).unwrap();
            let action = match rng.random_range(0..5) {
                0 => {
                    state = Some(value);
                    Action::Write(value)
                }
                1 => {
                    let existed = Some(state.take().is_some());
                    Action::Delete { existed }
                }
                2 => {
                    let refused = Some(state.is_some());
                    state = state.or(Some(value));
                    Action::WriteIfAbsent { value, refused }
                }
                _ => Action::Read(state),
            };
            // Unique moments: a multiple of 100 plus the operation's number of 1,000.
            let unique = |at: u64, half: u64| at * 2000 + n as u64 * 2 + half;
            let called = unique(moment - rng.random_range(0..=moment.min(250)), 0);
            let returned = unique(moment + rng.random_range(1..250), 1);
            let lost = rng.random_bool(lost);
            let returned = (!lost).then_some(returned);
            let action = match action {
                Action::Delete { .. } if lost => Action::Delete { existed: None },
                Action::WriteIfAbsent { value, .. } if lost => Action::WriteIfAbsent {
                    value,
                    refused: None,
                },
                told => told,
            };
            history.push(Operation {
                client: n as u64,
                called,
                returned,
                action,
            });
        }
        history
    }

    #[test]
    fn what_a_register_did_is_accepted_and_a_false_read_is_not() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let lost = rng.random_range(0.0..0.5);
            let mut history = random_history(&mut rng, 60, lost);
            assert_eq!(check(&history), Ok(()), "seed {seed}");
            let end = history.iter().filter_map(|o| o.returned).max().unwrap() + 1;
            history.push(op(99, end, end + 1, read(Value::MAX)));
            assert!(check(&history).is_err(), "seed {seed}");
        }
    }

    /// Every order that respects real time, by brute force.
    fn accepted_by_brute_force(history: &[Operation]) -> bool {
        fn go(history: &[Operation], left: u32, state: Option<Value>) -> bool {
            let members = || (0..history.len()).filter(move |i| left & (1 << i) != 0);
            if members().all(|i| history[i].returned.is_none()) {
                return true;
            }
            members().any(|i| {
                let earlier =
                    members().any(|j| history[j].returned.is_some_and(|at| at < history[i].called));
                !earlier
                    && history[i]
                        .action
                        .step(state)
                        .is_some_and(|after| go(history, left & !(1 << i), after))
            })
        }
        go(history, (1 << history.len()) - 1, None)
    }

    #[test]
    fn agrees_with_brute_force_on_small_histories() {
        let (mut accepted, mut refused) = (0, 0);
        for seed in 0..20_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let lost = rng.random_range(0.0..0.6);
            let mut history = random_history(&mut rng, 7, lost);
            // Spoil some answers, so that both verdicts occur.
            for operation in &mut history {
                if let Action::Read(seen) = &mut operation.action
                    && rng.random_bool(0.4)
                {
                    *seen = rng.random_bool(0.7).then(|| rng.random_range(0..7));
                }
            }
            let expected = accepted_by_brute_force(&history);
            assert_eq!(
                check(&history).is_ok(),
                expected,
                "seed {seed}: {history:#?}"
            );
            *(if expected {
                &mut accepted
            } else {
                &mut refused
            }) += 1;
        }
        assert!(
            accepted > 2000 && refused > 2000,
            "{accepted} accepted, {refused} refused"
        );
    }
}
