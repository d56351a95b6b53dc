//! What the keeper waits for before it does something about disks that are away, and how far it is with
//! the groups that lack members: for operators, who see nothing happen meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use granary_types::DiskId;

/// What the keeper waits for, and does, as its last tick left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Time until others may take the places of the first disk that is out and has any
    /// (`replace_after_ms`).
    pub replaces_in: Option<Duration>,
    /// Time until disks in service that are away are taken out, unless they come back: those whose
    /// nodes do not answer (`unreachable_out_ms`), and those that their nodes do not have
    /// (`missing_out_ms`).
    pub gives_up_in: BTreeMap<DiskId, (Duration, Away)>,
    /// So many disks are silent that none of them is taken out.
    pub held_back: bool,
    /// Groups that lack a complete member in service: done, and all, since there are some.
    pub groups: (u64, u64),
    /// For how long there have been some.
    pub since: Option<Duration>,
}

/// How a disk is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Its node does not answer, or is opening it.
    Unreachable,
    /// Its node answers without it.
    Missing,
}

/// The same as points in (monotonic) time.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    pub(super) replaces_at: Option<Duration>,
    pub(super) gives_up_at: BTreeMap<DiskId, (Duration, Away)>,
    pub(super) held_back: bool,
    /// The keeper has looked since it leads.
    pub(super) noted: bool,
    /// Groups that lacked something at the last look.
    lacking: u64,
    /// Since when, and the most of them.
    begun: Option<(Duration, u64)>,
}

impl Deadlines {
    /// So many groups lack a complete member now. More than ever: the speed so far says nothing.
    pub(super) fn note_lacking(&mut self, now: Duration, lacking: u64) {
        self.lacking = lacking;
        self.begun = match self.begun {
            _ if lacking == 0 => None,
            Some((since, most)) if lacking <= most => Some((since, most)),
            _ => Some((now, lacking)),
        };
    }

    /// While nothing can be done about what is lacking, no speed is measured.
    pub(super) fn begin_again(&mut self, now: Duration) {
        self.begun = (self.lacking > 0).then_some((now, self.lacking));
    }

    /// What is left of it; `None` before the keeper has looked.
    pub(super) fn at(&self, now: Duration) -> Option<Waits> {
        let left = |at: Duration| at.saturating_sub(now);
        let gives_up = self.gives_up_at.iter();
        let most = self.begun.map_or(0, |(_, most)| most);
        self.noted.then(|| Waits {
            replaces_in: self.replaces_at.map(left),
            gives_up_in: gives_up
                .map(|(&disk, &(at, away))| (disk, (left(at), away)))
                .collect(),
            held_back: self.held_back,
            groups: (most.saturating_sub(self.lacking), most),
            since: self.begun.map(|(since, _)| now.saturating_sub(since)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_begins_anew_when_more_is_lost() {
        let secs = Duration::from_secs;
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.at(secs(1)), None);
        deadlines.noted = true;
        for (at, lacking, groups, since) in [
            (10, 0, (0, 0), None),
            (20, 8, (0, 8), Some(0)),
            (25, 6, (2, 8), Some(5)),
            (30, 9, (0, 9), Some(0)),
            (40, 0, (0, 0), None),
        ] {
            deadlines.note_lacking(secs(at), lacking);
            let found = deadlines.at(secs(at)).unwrap();
            assert_eq!((found.groups, found.since), (groups, since.map(secs)));
        }
    }
}
