//! `granary admin account`: accounts and their access keys, of a cluster or of a `granary server`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use granary_runtime::Runtime;
use serde::Serialize;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use super::{Reach, ask_in_turn, ask_once, channels, show};
use crate::accounts::{KeyEntry, KeysPage, SOCKET_FILE};
use crate::cluster::pb::accounts_client::AccountsClient;
use crate::cluster::pb::{CreateAccountRequest, ListAccessKeysRequest, SetAccessKeyRequest};

/// What can be done with accounts.
#[derive(Subcommand, Debug)]
pub(crate) enum AccountCommand {
    /// Makes an account and an access key of it, whose secret is shown now and never again.
    Create {
        /// What people call it; need not be unique.
        name: String,
    },
    /// Shows every account and its access keys.
    List,
    /// Lets an access key count no more. Gateways know within some seconds (`access_key_view_ms`).
    Disable {
        /// The access key id.
        access_key_id: String,
    },
    /// Lets an access key count again.
    Enable {
        /// The access key id.
        access_key_id: String,
    },
}

/// An account as it is shown.
#[derive(Debug, Serialize)]
struct Account {
    account_id: String,
    name: String,
    access_keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
struct Key {
    access_key_id: String,
    enabled: bool,
    created_at: u64,
}

type Clients = Vec<(String, AccountsClient<Channel>)>;

/// Runs a command; `server` is the metadata directory of a `granary server`, or its first data
/// directory.
pub(super) async fn run(
    command: AccountCommand,
    server: Option<&Path>,
    reach: &Reach,
    runtime: &Runtime,
) -> anyhow::Result<ExitCode> {
    let mut clients = match server {
        Some(dir) => vec![of_server(dir)?],
        None => channels(runtime, reach)?
            .into_iter()
            .map(|(address, channel)| (address, AccountsClient::new(channel)))
            .collect(),
    };
    match command {
        AccountCommand::Create { name } => create(name, &mut clients, reach).await,
        AccountCommand::List => list(&mut clients, reach).await,
        AccountCommand::Disable { access_key_id } => {
            set(access_key_id, false, &mut clients, reach).await
        }
        AccountCommand::Enable { access_key_id } => {
            set(access_key_id, true, &mut clients, reach).await
        }
    }
}

fn of_server(dir: &Path) -> anyhow::Result<(String, AccountsClient<Channel>)> {
    let file = socket(dir)?;
    let shown = file.display().to_string();
    let endpoint = Endpoint::from_shared(format!("unix:{}", path_text(&file)?))?;
    Ok((shown, AccountsClient::new(endpoint.connect_lazy())))
}

fn path_text(file: &Path) -> anyhow::Result<&str> {
    file.to_str()
        .with_context(|| format!("{} is not UTF-8", file.display()))
}

fn socket(dir: &Path) -> anyhow::Result<PathBuf> {
    let places = [dir.join(SOCKET_FILE), dir.join("meta").join(SOCKET_FILE)];
    if let Some(file) = places.into_iter().find(|file| file.exists()) {
        return Ok(file);
    }
    bail!(
        "there is no {SOCKET_FILE} in {}: is it the metadata directory of a granary server that runs?",
        dir.display()
    )
}

async fn create(name: String, clients: &mut Clients, reach: &Reach) -> anyhow::Result<ExitCode> {
    let request = CreateAccountRequest { name: name.clone() };
    let made = ask_once(clients, async |client| {
        Ok(client.create_account(request.clone()).await?.into_inner())
    })
    .await?;
    let value = json!({
        "account_id": made.account_id,
        "name": name,
        "access_key_id": made.access_key_id,
        "access_key_secret": made.access_key_secret,
    });
    show(reach, &value, || {
        format!(
            "Account {} ({name}) is made. The secret is not shown again.\n\n  access key id      {}\n  \
             access key secret  {}",
            made.account_id, made.access_key_id, made.access_key_secret
        )
    })
}

async fn list(clients: &mut Clients, reach: &Reach) -> anyhow::Result<ExitCode> {
    let mut accounts = BTreeMap::<String, Account>::new();
    let mut after = String::new();
    loop {
        let request = ListAccessKeysRequest {
            after: after.clone(),
        };
        let report = ask_in_turn(clients, async |client| {
            Ok(client.list_access_keys(request.clone()).await?.into_inner())
        })
        .await?;
        let page: KeysPage =
            serde_json::from_str(&report.json).context("the list of keys makes no sense")?;
        let last = page.keys.last().map(|key| key.access_key_id.clone());
        page.keys
            .into_iter()
            .for_each(|entry| add(&mut accounts, entry));
        match last {
            Some(last) if page.more => after = last,
            _ => break,
        }
    }
    let accounts: Vec<Account> = accounts.into_values().collect();
    show(reach, &json!({ "accounts": accounts }), || {
        list_text(&accounts)
    })
}

fn add(accounts: &mut BTreeMap<String, Account>, entry: KeyEntry) {
    let account = accounts
        .entry(entry.account_id.clone())
        .or_insert_with(|| Account {
            account_id: entry.account_id,
            name: entry.name,
            access_keys: Vec::new(),
        });
    account.access_keys.push(Key {
        access_key_id: entry.access_key_id,
        enabled: entry.enabled,
        created_at: entry.created_at,
    });
}

fn list_text(accounts: &[Account]) -> String {
    let mut text = format!(
        "{:<18} {:<26} {:<9} name\n",
        "account", "access key id", "counts"
    );
    for account in accounts {
        for key in &account.access_keys {
            let counts = if key.enabled { "yes" } else { "no" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<18} {:<26} {counts:<9} {}",
                account.account_id, key.access_key_id, account.name
            );
        }
    }
    text
}

async fn set(
    access_key_id: String,
    enabled: bool,
    clients: &mut Clients,
    reach: &Reach,
) -> anyhow::Result<ExitCode> {
    let request = SetAccessKeyRequest {
        access_key_id: access_key_id.clone(),
        enabled,
    };
    let reply = ask_in_turn(clients, async |client| {
        Ok(client.set_access_key(request.clone()).await?.into_inner())
    })
    .await?;
    let value = json!({
        "access_key_id": access_key_id,
        "enabled": enabled,
        "changed": reply.changed,
    });
    show(reach, &value, || {
        let state = if enabled { "enabled" } else { "disabled" };
        match reply.changed {
            true => format!("Access key {access_key_id} is {state}."),
            false => format!("Access key {access_key_id} was {state} already."),
        }
    })
}
