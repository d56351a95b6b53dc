//! A run from its first look at the bucket to the last deletion: store what is read, measure, report, clean up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use granary_oss::query::Query;
use granary_runtime::{CancellationToken, Runtime};

use crate::chore::{self, Chore};
use crate::connection::{Connection, Store};
use crate::content::Content;
use crate::endpoint::Dialler;
use crate::failure::{Failure, element, elements};
use crate::load::{self, Load};
use crate::measure::{Measured, Round, Window};
use crate::objects::ObjectSet;
use crate::report::{Report, WorkloadReport, name_width};
use crate::request::{look, page_query, remove};
use crate::settings::{BenchArgs, Extent, JsonTo, SettingError, Settings};
use crate::signing::Signer;
use crate::workload::{Operation, Workload};

/// Directories of a run at most, one for each use of a size.
const LEFT_MAX: usize = 1000;

/// Where a run says something.
pub struct Console<'a> {
    /// Prints lines on the standard output.
    pub out: &'a dyn Fn(&str),
    /// Prints lines on the standard error.
    pub err: &'a dyn Fn(&str),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every request went well.
    Good,
    /// A request failed, or an object is still there.
    Failed,
    /// The user ended it.
    Interrupted,
}

/// Why what was asked for could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A setting that cannot be.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The bucket cannot be listed.
    #[error("{place}: {reason}")]
    Bucket {
        /// The bucket's URL.
        place: String,
        /// What the store or the network said.
        reason: String,
    },
    /// What is overwritten and deleted would stay.
    #[error(
        "bucket {bucket} keeps versions, so that what is overwritten and deleted would stay: name one without versioning"
    )]
    Versioned {
        /// The bucket.
        bucket: String,
    },
    /// Nobody knows whether what is overwritten and deleted would stay.
    #[error(
        "cannot see whether bucket {bucket} keeps versions, which would stay: {reason} (with --keep that is all the same)"
    )]
    MaybeVersioned {
        /// The bucket.
        bucket: String,
        /// What the store or the network said.
        reason: String,
    },
    /// Objects that are read could not be stored.
    #[error("cannot store the objects of {workload}: {reason}")]
    NotStored {
        /// The workload that reads them.
        workload: String,
        /// What the store or the network said.
        reason: String,
    },
    /// The JSON cannot be written.
    #[error("--json: {path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs everything that the arguments ask for. `variable` reads the environment; `stop` ends the run in good order.
///
/// # Errors
/// What was asked for could not be measured, or not all of it. What was measured is told, and what was stored has been
/// deleted all the same.
pub async fn run(
    args: BenchArgs,
    variable: &dyn Fn(&str) -> Option<String>,
    console: &Console<'_>,
    runtime: &Runtime,
    stop: &CancellationToken,
) -> Result<Verdict, BenchError> {
    let settings = Settings::from_args(args, variable)?;
    let mut report = Report::new(&settings, runtime.now());
    let bench = Bench::new(settings, runtime, stop)?;
    bench.look().await?;
    let mut json = JsonFile::open(bench.settings.json.clone())?;
    let table = match bench.settings.json {
        Some(JsonTo::Stdout) => console.err,
        _ => console.out,
    };
    let mut outcome = bench.measure(&mut report, table).await;
    if bench.leaves_versions() {
        outcome = Err(bench.versioned());
    }
    report.interrupted = stop.is_cancelled();
    report.error = outcome.as_ref().err().map(ToString::to_string);
    if let Some(failures) = report.failures() {
        table(&failures);
    }
    if let Some(reason) = bench.clean_up().await {
        report.objects_left_under = Some(bench.folder.clone());
        let bucket = &bench.settings.endpoint.bucket;
        let folder = &bench.folder;
        (console.err)(&format!(
            "\nObjects are left in bucket {bucket} under {folder}: {reason}"
        ));
    }
    json.write(&report, console)?;
    outcome?;
    Ok(match (&report.objects_left_under, report.interrupted) {
        (_, true) => Verdict::Interrupted,
        (Some(_), _) if !bench.settings.keep => Verdict::Failed,
        _ if report.has_errors() => Verdict::Failed,
        _ => Verdict::Good,
    })
}

/// What the objects of a set are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Stored once, read by all workloads of their size.
    Read,
    /// Written and overwritten.
    Write,
    /// Stored and deleted in every round.
    Delete,
}

/// A run.
struct Bench {
    settings: Settings,
    store: Arc<Store>,
    content: Content,
    /// What all keys begin with.
    folder: String,
    /// By use and size.
    sets: BTreeMap<(Use, u64), Arc<ObjectSet>>,
    /// The number of the next body.
    numbers: Arc<AtomicU64>,
    /// Ended by the user, or because versions would stay.
    over: CancellationToken,
}

impl Bench {
    fn new(
        settings: Settings,
        runtime: &Runtime,
        stop: &CancellationToken,
    ) -> Result<Self, SettingError> {
        let over = stop.child_token();
        let ca_file = settings.ca_file.as_deref();
        let dialler = Dialler::new(settings.endpoint.clone(), ca_file, runtime)?;
        let store = Store {
            endpoint: settings.endpoint.clone(),
            dialler,
            signer: Signer {
                dialect: settings.dialect,
                credentials: settings.credentials.clone(),
                region: settings.region.clone(),
            },
            timeout: settings.timeout,
            runtime: runtime.clone(),
            names_versions: AtomicBool::new(false),
            without_versions: (!settings.keep).then(|| over.clone()),
        };
        let folder = format!("{}{:016x}/", settings.prefix, runtime.entropy().next_u64());
        let mut bench = Self {
            store: Arc::new(store),
            content: Content::new(runtime.entropy().as_ref()),
            folder,
            sets: BTreeMap::new(),
            numbers: Arc::default(),
            over,
            settings,
        };
        bench.plan();
        Ok(bench)
    }

    /// Makes the sets of all workloads; each is as large as the one that needs most.
    fn plan(&mut self) {
        let mut sizes: BTreeMap<(Use, u64), usize> = BTreeMap::new();
        for workload in &self.settings.workloads {
            let uses = [
                (Use::Read, workload.reads()),
                (Use::Write, workload.has(Operation::Put)),
                (Use::Delete, workload.has(Operation::Delete)),
            ];
            for (what, _) in uses.into_iter().filter(|(_, is_used)| *is_used) {
                let keys = sizes.entry((what, workload.size_bytes)).or_default();
                *keys = (*keys).max(self.settings.keys_of(workload));
            }
        }
        for ((what, size_bytes), keys) in sizes {
            let name = match what {
                Use::Read => "read",
                Use::Write => "written",
                Use::Delete => "deleted",
            };
            let folder = format!("{}{name}-{size_bytes}/", self.folder);
            let first = self.numbers.fetch_add(keys as u64, Ordering::Relaxed);
            let set = ObjectSet::new(folder, size_bytes, first, keys);
            self.sets.insert((what, size_bytes), Arc::new(set));
        }
    }

    fn set(&self, what: Use, workload: &Workload) -> Option<Arc<ObjectSet>> {
        self.sets.get(&(what, workload.size_bytes)).cloned()
    }

    /// Tells at once whether the endpoint, the bucket and the keys are right, and whether objects can be deleted for good.
    async fn look(&self) -> Result<(), BenchError> {
        let mut connection = Connection::new(Arc::clone(&self.store));
        let listed = look(&mut connection, page_query(&self.folder, 1, None)).await;
        listed.map_err(|failure| BenchError::Bucket {
            place: format!(
                "{}/{}",
                self.settings.endpoint.url, self.settings.endpoint.bucket
            ),
            reason: failure.to_string(),
        })?;
        if self.settings.keep {
            return Ok(());
        }
        match look(&mut connection, Query::from_pairs([("versioning", "")])).await {
            Ok(document) => match element(&document, "Status").as_deref() {
                Some("Enabled" | "Suspended") => Err(self.versioned()),
                _ => Ok(()),
            },
            // What has no versions need not know what this asks for.
            Err(failure) if failure.is_not_implemented() => Ok(()),
            Err(failure) => Err(BenchError::MaybeVersioned {
                bucket: self.settings.endpoint.bucket.clone(),
                reason: failure.to_string(),
            }),
        }
    }

    fn versioned(&self) -> BenchError {
        BenchError::Versioned {
            bucket: self.settings.endpoint.bucket.clone(),
        }
    }

    /// Whether deleting what was stored would leave versions of it, against the user's wish.
    fn leaves_versions(&self) -> bool {
        !self.settings.keep && self.store.names_versions.load(Ordering::Relaxed)
    }

    /// Measures all workloads in turn and prints their rows as they are done.
    async fn measure(&self, report: &mut Report, table: &dyn Fn(&str)) -> Result<(), BenchError> {
        let workloads = &self.settings.workloads;
        let width = name_width(workloads);
        let mut measured: Vec<(Measured, Vec<crate::measure::Figures>)> =
            workloads.iter().map(|_| Default::default()).collect();
        table(&report.head(width));
        let mut tell = |workload: &Workload, (whole, rounds): &mut (Measured, Vec<_>)| {
            let rounds = std::mem::take(rounds);
            let row = WorkloadReport::new(workload, self.keys_of(workload), whole, rounds);
            table(&row.rows(workload, width));
            report.workloads.push(row);
        };
        let mut outcome = Ok(());
        'rounds: for round in 1..=self.settings.rounds {
            for (workload, so_far) in workloads.iter().zip(&mut measured) {
                if self.over.is_cancelled() {
                    break 'rounds;
                }
                outcome = self.prepare(workload).await;
                if outcome.is_err() || self.over.is_cancelled() {
                    break 'rounds;
                }
                let now = self.measure_once(workload, round).await;
                let mut alone = Measured::default();
                alone.add(&now);
                so_far.0.add(&now);
                so_far.1.push(alone.figures(None));
                if round == self.settings.rounds {
                    tell(workload, so_far);
                }
            }
        }
        // Of a run that was ended before its last round.
        for (workload, so_far) in workloads.iter().zip(&mut measured) {
            if !so_far.1.is_empty() {
                tell(workload, so_far);
            }
        }
        outcome
    }

    fn keys_of(&self, workload: &Workload) -> usize {
        let sets = [Use::Read, Use::Write, Use::Delete].into_iter();
        let own = sets.filter(|what| match what {
            Use::Read => workload.reads(),
            Use::Write => workload.has(Operation::Put),
            Use::Delete => workload.has(Operation::Delete),
        });
        let sizes = own.filter_map(|what| self.set(what, workload).map(|set| set.len()));
        sizes.max().unwrap_or_default()
    }

    /// Stores what a workload reads or deletes and is not there yet.
    async fn prepare(&self, workload: &Workload) -> Result<(), BenchError> {
        let needed = [
            (Use::Read, workload.reads()),
            (Use::Delete, workload.has(Operation::Delete)),
        ];
        for (what, _) in needed.into_iter().filter(|(_, is_needed)| *is_needed) {
            let Some(set) = self.set(what, workload) else {
                continue;
            };
            if what == Use::Delete {
                // Also what is stored again is another body.
                let first = self.numbers.fetch_add(set.len() as u64, Ordering::Relaxed);
                set.renumber(first);
            }
            let outcome = self.chore(Chore::Store, set, &self.over).await;
            outcome.map_err(|failure| BenchError::NotStored {
                workload: workload.name.clone(),
                reason: failure.to_string(),
            })?;
        }
        Ok(())
    }

    async fn chore(
        &self,
        what: Chore,
        set: Arc<ObjectSet>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let connections = self.settings.connections;
        chore::run(&self.store, &self.content, what, set, connections, stop).await
    }

    async fn measure_once(&self, workload: &Workload, round: u32) -> Round {
        // Nothing is left to measure of what the warm-up has deleted.
        let warm_up = match workload.has(Operation::Delete) {
            true => Duration::ZERO,
            false => self.settings.warm_up,
        };
        let connections = load::dial(&self.store, self.settings.connections).await;
        let begins = self.store.runtime.monotonic() + warm_up;
        let (ends, requests_max) = match self.settings.extent {
            Extent::Time(time) => (Some(begins + time), None),
            Extent::Requests(requests) => (None, Some(requests)),
        };
        let load = Load::new(
            Arc::clone(&self.store),
            self.content.clone(),
            workload.clone(),
            load::Sets {
                read: self.set(Use::Read, workload),
                written: self.set(Use::Write, workload),
                deleted: self.set(Use::Delete, workload),
            },
            Arc::clone(&self.numbers),
            load::Limits {
                window: Window { begins, ends },
                requests_max,
            },
        );
        let name = match self.settings.rounds {
            1 => workload.name.clone(),
            rounds => format!("{} {round}/{rounds}", workload.name),
        };
        load.run(name, connections, &self.over).await
    }

    /// Deletes what the run has stored, and looks whether anything is left; why it is.
    async fn clean_up(&self) -> Option<String> {
        if self.settings.keep {
            return Some("--keep".to_owned());
        }
        if self.leaves_versions() {
            return Some("the bucket keeps versions of what is deleted".to_owned());
        }
        for set in self.sets.values() {
            // Also a run that was stopped cleans up.
            let going_on = CancellationToken::new();
            if let Err(failure) = self.chore(Chore::Delete, Arc::clone(set), &going_on).await {
                return Some(failure.to_string());
            }
        }
        match self.find_left().await {
            Ok(key) => Some(format!("{} is there after its deletion", key?)),
            Err(failure) => Some(failure.to_string()),
        }
    }

    /// A key of the run that is still there. Where keys are paths, PUTs have made the directories of theirs, which are
    /// keys with a slash at the end; those below the run's own folder are deleted before.
    async fn find_left(&self) -> Result<Option<String>, Failure> {
        let mut connection = Connection::new(Arc::clone(&self.store));
        let page = page_query(&self.folder, LEFT_MAX, None);
        let mut left = elements(&look(&mut connection, page).await?, "Key");
        if let Some(object) = left.iter().find(|key| !key.ends_with('/')) {
            return Ok(Some(object.clone()));
        }
        if left.is_empty() {
            return Ok(None);
        }
        // What stands in a directory goes before it.
        left.sort_unstable_by_key(|key| Reverse(key.len()));
        for directory in left {
            remove(&mut connection, directory).await?;
        }
        let document = look(&mut connection, page_query(&self.folder, 1, None)).await?;
        Ok(element(&document, "Key"))
    }
}

/// Where the JSON goes.
struct JsonFile {
    to: Option<JsonTo>,
    file: Option<std::fs::File>,
}

impl JsonFile {
    /// Opens the file before anything is measured.
    fn open(to: Option<JsonTo>) -> Result<Self, BenchError> {
        let file = match &to {
            Some(JsonTo::File(path)) => {
                let file = std::fs::File::create(path);
                Some(file.map_err(|source| BenchError::Json {
                    path: path.clone(),
                    source,
                })?)
            }
            _ => None,
        };
        Ok(Self { to, file })
    }

    fn write(&mut self, report: &Report, console: &Console<'_>) -> Result<(), BenchError> {
        let Some(to) = &self.to else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(report).expect("names and numbers are JSON");
        match (to, &mut self.file) {
            (JsonTo::File(path), Some(file)) => {
                writeln!(file, "{text}").map_err(|source| BenchError::Json {
                    path: path.clone(),
                    source,
                })
            }
            _ => {
                (console.out)(&text);
                Ok(())
            }
        }
    }
}
