//! Listings, read as many point reads: what a page shows and what it leaves out was so at one
//! moment between its request and its answer, for every key by itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::list_item::Item;

use super::{Bucket, Gateway, NotDone};
use crate::linearizability::{Action, Value};

/// What a listing is asked for.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Only keys that begin so.
    pub prefix: String,
    /// Keys are rolled up to the first of these after the prefix; empty: not at all.
    pub delimiter: String,
    /// Entries of one page.
    pub limit: u32,
}

/// One page, as far as it says something about single keys.
struct Page {
    keys: BTreeMap<String, Value>,
    prefixes: BTreeSet<String>,
}

impl Gateway {
    /// ListObjectsV2, page by page to the end. `universe`: every key the run may write.
    ///
    /// # Errors
    /// No answer, or the bucket is gone.
    pub async fn list(
        &self,
        bucket: &Bucket,
        universe: &[String],
        options: &ListOptions,
    ) -> Result<(), NotDone> {
        let mut after = Bytes::new();
        loop {
            let called = self.record.history.call();
            let query = pb::ListObjects {
                bucket_id: bucket.id.0,
                prefix: Bytes::copy_from_slice(options.prefix.as_bytes()),
                delimiter: Bytes::copy_from_slice(options.delimiter.as_bytes()),
                after: after.clone(),
                limit: options.limit,
                ..pb::ListObjects::default()
            };
            let answer = self.meta.list_objects(query).await.map_err(|error| {
                self.count("listing without answer");
                self.judge("listing", &error)
            })?;
            let end = answer.more.then(|| answer.resume_after.clone());
            let page = self.page(bucket, options, &answer.items)?;
            let names: Vec<_> = universe
                .iter()
                .filter(|key| inside(key, &after, end.as_ref(), options))
                .filter_map(|key| {
                    let seen = match rolled_up(key, options) {
                        Some(prefix) if page.prefixes.contains(prefix) => return None,
                        Some(_) => None,
                        None => page.keys.get(key).copied(),
                    };
                    Some((bucket.object(key), Action::Read(seen)))
                })
                .collect();
            let reads = names.iter().map(|(name, action)| (name, *action));
            self.record
                .history
                .answered_many(self.client(), called, reads);
            self.count("list page");
            match end {
                Some(end) if end > after => after = end,
                Some(end) => {
                    self.find(format!("a listing resumes at {end:?} after {after:?}"));
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    fn page(
        &self,
        bucket: &Bucket,
        options: &ListOptions,
        items: &[pb::ListItem],
    ) -> Result<Page, NotDone> {
        let mut page = Page {
            keys: BTreeMap::new(),
            prefixes: BTreeSet::new(),
        };
        let mut last = Bytes::new();
        if items.len() > options.limit as usize {
            self.find(format!("a page of {} entries for {options:?}", items.len()));
        }
        for item in items {
            let name = match &item.item {
                Some(Item::Object(entry)) => {
                    let key = String::from_utf8_lossy(&entry.key).into_owned();
                    let version = entry.version.clone().unwrap_or_default();
                    let name = bucket.object(&key);
                    let value = self.value_of(&name, &version).ok_or(NotDone)?;
                    if !key.starts_with(&options.prefix) || rolled_up(&key, options).is_some() {
                        self.find(format!("{name:?} is listed for {options:?}"));
                    }
                    page.keys.insert(key, value);
                    entry.key.clone()
                }
                Some(Item::CommonPrefix(prefix)) => {
                    page.prefixes
                        .insert(String::from_utf8_lossy(prefix).into_owned());
                    prefix.clone()
                }
                None => Bytes::new(),
            };
            if name <= last {
                self.find(format!("a listing shows {name:?} after {last:?}"));
            }
            last = name;
        }
        Ok(page)
    }
}

/// The common prefix that stands for a key; `None` when the key stands for itself.
fn rolled_up<'k>(key: &'k str, options: &ListOptions) -> Option<&'k str> {
    if options.delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(options.prefix.as_str())?;
    let at = rest.find(options.delimiter.as_str())?;
    Some(&key[..options.prefix.len() + at + options.delimiter.len()])
}

/// Whether a page from `after` to `end` would show this key, or what stands for it.
fn inside(key: &str, after: &[u8], end: Option<&Bytes>, options: &ListOptions) -> bool {
    let shown = rolled_up(key, options).unwrap_or(key).as_bytes();
    key.starts_with(&options.prefix) && shown > after && end.is_none_or(|end| shown <= end.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_rolled_up_to_the_delimiter_after_the_prefix() {
        for (key, prefix, delimiter, expected) in [
            ("a/b/c", "", "/", Some("a/")),
            ("a/b/c", "a/", "/", Some("a/b/")),
            ("a/b/c", "a/b/", "/", None),
            ("a/b/c", "", "", None),
            ("abc", "", "/", None),
            ("a/b/c", "x", "/", None),
        ] {
            let options = ListOptions {
                prefix: prefix.to_owned(),
                delimiter: delimiter.to_owned(),
                limit: 10,
            };
            assert_eq!(
                rolled_up(key, &options),
                expected,
                "{key} {prefix} {delimiter}"
            );
        }
    }

    #[test]
    fn a_page_speaks_for_what_it_could_show() {
        let options = ListOptions {
            delimiter: "/".to_owned(),
            ..ListOptions::default()
        };
        let end = Bytes::from_static(b"b/");
        for (key, after, expected) in [
            ("a", "", true),
            ("a", "a", false),
            ("b/x", "a", true),
            ("b/x", "b/", false),
            ("c", "", false),
        ] {
            assert_eq!(
                inside(key, after.as_bytes(), Some(&end), &options),
                expected,
                "{key}"
            );
        }
    }
}
