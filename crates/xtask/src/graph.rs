//! Who may depend on whom. The layers here are the ones of docs/architecture.md; a new crate needs a row.
//!
//! Invariant: a normal or build dependency goes to a strictly lower layer; what must stay apart stays
//! apart through any number of steps; dev-dependencies are free but for `node`, which nothing may use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// (crate, layer). `sim`, `testkit` and `xtask` stand outside: nothing but tests may use them.
const LAYERS: [(&str, u8); 22] = [
    ("types", 0),
    ("runtime", 0),
    ("oss", 1),
    ("policy", 1),
    ("placement", 1),
    ("kv", 1),
    ("vfs", 1),
    ("meta-api", 2),
    ("blob-api", 2),
    ("kv-rocks", 2),
    ("raft", 2),
    ("meta", 3),
    ("blob", 3),
    ("datapath", 3),
    ("cluster", 3),
    ("gateway", 4),
    ("workers", 4),
    ("bench", 4),
    ("node", 5),
    ("sim", 6),
    ("testkit", 6),
    ("xtask", 6),
];

/// The one edge inside a layer: what runtime offers speaks of values.
const BESIDE: (&str, &str) = ("runtime", "types");

/// (crate, what its normal dependencies may never lead to, why).
const APART: [(&str, &[&str], &str); 12] = [
    (
        "gateway",
        STORES,
        "it reaches stores through meta-api and datapath only",
    ),
    (
        "workers",
        STORES,
        "they reach stores through meta-api and datapath only",
    ),
    (
        "workers",
        &["gateway"],
        "background work does not speak HTTP",
    ),
    (
        "meta",
        &["blob", "datapath"],
        "metadata never touches object bytes",
    ),
    (
        "blob",
        &["meta", "meta-api", "datapath"],
        "a storage node decides nothing",
    ),
    (
        "datapath",
        &["meta", "blob"],
        "it moves bytes between api crates",
    ),
    ("bench", STORES, "it is a client, of any store"),
    (
        "bench",
        &["gateway", "cluster", "datapath", "meta-api", "blob-api"],
        "it is a client, of any store",
    ),
    ("oss", &["tokio", "hyper"], "the dialect is pure"),
    ("policy", &["tokio", "hyper"], "policy is pure"),
    ("placement", &["tokio", "hyper"], "placement is pure"),
    ("types", &["tokio", "hyper"], "values are pure"),
];
const STORES: &[&str] = &["meta", "blob", "raft", "kv", "kv-rocks", "vfs"];

/// (outside package, the only crate that may name it).
const ONLY: [(&str, &[&str]); 6] = [
    ("openraft", &["raft"]),
    ("openraft-rt", &["raft"]),
    ("openraft-rt-tokio", &["raft"]),
    ("rocksdb", &["kv-rocks"]),
    ("quick-xml", &["oss"]),
    ("anyhow", &["node", "sim", "testkit", "xtask"]),
];

/// What a package of the workspace depends on, by short name (`granary-` left out).
#[derive(Debug, Default)]
pub(crate) struct Crate {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
    /// Everything its normal and build dependencies lead to.
    reaches: BTreeSet<String>,
}

/// Workspace crates by short name.
pub(crate) type Graph = BTreeMap<String, Crate>;

/// Asks cargo for the graph.
pub(crate) fn read(root: &Path) -> anyhow::Result<Graph> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse(&serde_json::from_slice(&output.stdout).context("cargo metadata")?)
}

fn short(name: &str) -> String {
    name.strip_prefix("granary-").unwrap_or(name).to_owned()
}

fn parse(metadata: &Value) -> anyhow::Result<Graph> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), short(&text(&p["name"]))))
        .collect();
    let members: BTreeSet<String> = list(&metadata["workspace_members"])
        .iter()
        .map(&text)
        .collect();
    let mut edges: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let entry = edges.entry(text(&node["id"])).or_default();
        for dep in list(&node["deps"]) {
            let only_dev = list(&dep["dep_kinds"])
                .iter()
                .all(|kind| kind["kind"] == "dev");
            let side = if only_dev { &mut entry.1 } else { &mut entry.0 };
            side.insert(text(&dep["pkg"]));
        }
    }
    let mut graph = Graph::new();
    for id in &members {
        let name = |id: &String| names.get(id).cloned().context("package without a name");
        let (normal, dev) = edges.get(id).context("member that is not resolved")?;
        let mut reaches = BTreeSet::new();
        let mut waiting: Vec<&String> = normal.iter().collect();
        while let Some(next) = waiting.pop() {
            if reaches.insert(name(next)?) {
                waiting.extend(edges.get(next).into_iter().flat_map(|(normal, _)| normal));
            }
        }
        let direct = |ids: &BTreeSet<String>| ids.iter().map(name).collect::<Result<_, _>>();
        graph.insert(
            name(id)?,
            Crate {
                normal: direct(normal)?,
                dev: direct(dev)?,
                reaches,
            },
        );
    }
    Ok(graph)
}

/// The rules that the graph breaks.
pub(crate) fn check(graph: &Graph) -> Vec<String> {
    let layers: BTreeMap<&str, u8> = LAYERS.into_iter().collect();
    let mut broken = Vec::new();
    for (name, krate) in graph {
        let Some(layer) = layers.get(name.as_str()) else {
            broken.push(format!("crate {name} has no layer in xtask/src/graph.rs"));
            continue;
        };
        for dependency in &krate.normal {
            match layers.get(dependency.as_str()) {
                Some(6) if *layer < 6 => {
                    broken.push(format!("{name} -> {dependency}: only tests may use it"))
                }
                Some(below) if below >= layer && (name.as_str(), dependency.as_str()) != BESIDE => {
                    broken.push(format!(
                        "{name} -> {dependency}: layer {layer} may not depend on layer {below}"
                    ))
                }
                _ => {}
            }
        }
        if krate.dev.contains("node") {
            broken.push(format!("{name} -> node: nothing depends on the binary"));
        }
        for (package, allowed) in ONLY {
            if krate.normal.contains(package) && !allowed.contains(&name.as_str()) {
                broken.push(format!(
                    "{name} -> {package}: only {} may",
                    allowed.join(", ")
                ));
            }
        }
    }
    for (name, forbidden, why) in APART {
        let reaches = graph.get(name).map(|krate| &krate.reaches);
        for target in forbidden
            .iter()
            .filter(|t| reaches.is_some_and(|r| r.contains(**t)))
        {
            broken.push(format!("{name} -> {target}: {why}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let mut graph = Graph::new();
        for (name, targets) in edges {
            let normal: BTreeSet<String> = targets.iter().map(|t| (*t).to_owned()).collect();
            let mut reaches = normal.clone();
            for target in &normal {
                let known: Option<&Crate> = graph.get(target);
                reaches.extend(known.into_iter().flat_map(|k| k.reaches.iter().cloned()));
            }
            graph.insert(
                (*name).to_owned(),
                Crate {
                    normal,
                    dev: BTreeSet::new(),
                    reaches,
                },
            );
        }
        graph
    }

    #[test]
    fn edges_go_down_and_the_forbidden_ones_are_named() {
        for (edges, complaint) in [
            (&[("types", &[][..]), ("oss", &["types"])][..], None),
            (
                &[("gateway", &["meta"])],
                Some("gateway -> meta: it reaches stores"),
            ),
            (
                &[
                    ("kv", &[]),
                    ("datapath", &["kv"]),
                    ("gateway", &["datapath"]),
                ],
                Some("gateway -> kv"),
            ),
            (
                &[("runtime", &["tokio"]), ("oss", &["runtime"])],
                Some("oss -> tokio"),
            ),
            (
                &[("types", &["oss"])],
                Some("layer 0 may not depend on layer 1"),
            ),
            (&[("meta", &["rocksdb"])], Some("only kv-rocks may")),
            (&[("meta", &["openraft"])], Some("only raft may")),
            (&[("blob", &["testkit"])], Some("only tests may use it")),
            (&[("novel", &[])], Some("has no layer")),
        ] {
            let broken = check(&graph(edges)).join("\n");
            match complaint {
                None => assert_eq!(broken, ""),
                Some(text) => assert!(broken.contains(text), "{broken:?} lacks {text:?}"),
            }
        }
    }

    #[test]
    fn dev_dependencies_do_not_count_as_normal_ones() {
        let metadata = serde_json::json!({
            "packages": [{"id": "g", "name": "granary-gateway"}, {"id": "m", "name": "granary-meta"}],
            "workspace_members": ["g", "m"],
            "resolve": {"nodes": [
                {"id": "g", "deps": [{"pkg": "m", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "m", "deps": []},
            ]},
        });
        let graph = parse(&metadata).unwrap();
        assert!(graph["gateway"].dev.contains("meta"));
        assert_eq!(check(&graph), Vec::<String>::new());
    }
}
