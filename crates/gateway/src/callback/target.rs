//! Whom callbacks may reach. Uploaders choose the URL, so the gateway must not become their way into
//! the network that it stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::config::ConfigError;

/// The word for every address of the public Internet.
const PUBLIC: &str = "public";
/// Addresses at which clouds give out secrets of the machine that asks.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Who may be called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    public: bool,
    /// Names in lower case; with a leading dot for all below.
    names: Vec<String>,
    networks: Vec<IpNet>,
    ports_refused: Vec<u16>,
}

impl Allowed {
    /// Reads `public`, names (`app.example.com`, `*.example.com`), addresses and networks
    /// (`10.1.0.0/16`). `ports_refused` are those at which nodes and operators are served.
    ///
    /// # Errors
    /// An entry that is none of these.
    pub(crate) fn parse(entries: &[String], ports_refused: &[u16]) -> Result<Self, ConfigError> {
        let mut allowed = Self {
            ports_refused: ports_refused.to_vec(),
            ..Self::default()
        };
        for entry in entries {
            if entry == PUBLIC {
                allowed.public = true;
            } else if let Ok(network) = entry.parse::<IpNet>() {
                allowed.networks.push(network);
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                allowed.networks.push(IpNet::from(address));
            } else if let Some(name) = name_of(entry) {
                allowed.names.push(name);
            } else {
                return Err(ConfigError {
                    setting: "callback_hosts",
                    reason: format!(
                        "`{entry}` is not `public`, a name such as *.example.com, an address or a \
                         network such as 10.1.0.0/16"
                    ),
                });
            }
        }
        Ok(allowed)
    }

    /// Whether `host` may be called at `address`.
    pub(crate) fn allows(&self, host: &str, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if is_never_called(ip) || self.ports_refused.contains(&address.port()) {
            return false;
        }
        self.networks.iter().any(|network| network.contains(&ip))
            || (self.names_host(host) && !ip.is_loopback())
            || (self.public && is_public(ip))
    }

    fn names_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.names.iter().any(|name| match name.starts_with('.') {
            true => host.ends_with(name.as_str()),
            false => host == *name,
        })
    }
}

fn name_of(entry: &str) -> Option<String> {
    let name = entry.strip_prefix('*').unwrap_or(entry);
    let wild = name.len() != entry.len();
    let labels = name.strip_prefix('.').unwrap_or(name);
    let legal = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (wild == name.starts_with('.') && labels.split('.').all(legal))
        .then(|| name.to_ascii_lowercase())
}

/// Addresses that are nobody's server, or that of the machine itself, whatever the settings say.
fn is_never_called(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    special || ip.is_unspecified() || ip.is_multicast() || METADATA.contains(&ip)
}

/// Addresses of the public Internet (IANA's special-purpose registries).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let special = ip.is_private()
                || ip.is_loopback()
                || ip.is_documentation()
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (18..20).contains(&b))
                || a >= 240;
            !special
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            // Global unicast, without protocol assignments, documentation, and what wraps IPv4.
            let global = (0x2000..0x4000).contains(&first);
            global
                && first != 0x2002
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && first != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(entries: &[&str]) -> Allowed {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        Allowed::parse(&entries, &[9100]).unwrap()
    }

    fn allows(allowed: &Allowed, host: &str, ip: &str) -> bool {
        allowed.allows(host, SocketAddr::new(ip.parse().unwrap(), 80))
    }

    #[test]
    fn public_is_the_internet_and_nothing_else() {
        let public = allowed(&["public"]);
        for ip in ["8.8.8.8", "121.43.113.8", "2400:3200::1", "::ffff:8.8.8.8"] {
            assert!(allows(&public, "h", ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
        ] {
            assert!(!allows(&public, "h", ip), "{ip}");
        }
    }

    #[test]
    fn private_networks_are_named() {
        let named = allowed(&[
            "10.1.0.0/16",
            "192.168.1.7",
            "fd12::/16",
            "*.apps.example",
            "one.example",
        ]);
        for (host, ip, expected) in [
            ("h", "10.1.2.3", true),
            ("h", "::ffff:10.1.2.3", true),
            ("h", "10.2.0.1", false),
            ("h", "192.168.1.7", true),
            ("h", "192.168.1.8", false),
            ("h", "fd12::5", true),
            ("h", "8.8.8.8", false),
            ("a.apps.example", "172.16.0.9", true),
            ("A.B.Apps.Example.", "172.16.0.9", true),
            ("apps.example", "172.16.0.9", false),
            ("xapps.example", "172.16.0.9", false),
            ("one.example", "172.16.0.9", true),
            ("two.one.example", "172.16.0.9", false),
            // A name says nothing about the machine itself.
            ("one.example", "127.0.0.1", false),
            ("one.example", "169.254.169.254", false),
        ] {
            assert_eq!(allows(&named, host, ip), expected, "{host} {ip}");
        }
        assert!(allows(&allowed(&["127.0.0.0/8"]), "h", "127.0.0.1"));
        assert!(!allows(
            &allowed(&["0.0.0.0/0", "::/0"]),
            "h",
            "169.254.169.254"
        ));
        assert!(!allows(
            &allowed(&["0.0.0.0/0", "::/0"]),
            "h",
            "100.100.100.200"
        ));
        assert!(!allows(&allowed(&[]), "h", "8.8.8.8"));
    }

    #[test]
    fn ports_of_the_cluster_are_not_called() {
        let address = SocketAddr::new("8.8.8.8".parse().unwrap(), 9100);
        assert!(!allowed(&["public"]).allows("h", address));
    }

    #[test]
    fn entries_that_are_none_are_told() {
        for entry in [
            "",
            "a b",
            "10.0.0.0/33",
            "*",
            "*x",
            ".example",
            "http://h",
            "h:80",
        ] {
            let error = Allowed::parse(&[entry.to_owned()], &[]).unwrap_err();
            assert_eq!(error.setting, "callback_hosts", "{entry}");
        }
    }
}
