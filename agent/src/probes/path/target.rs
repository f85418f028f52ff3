//! To which addresses active probes may go: those of peers that the configuration names, and no others.

use crate::config::Config;
use crate::identity::Peers;
use crate::identity::peers::Peer;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Most addresses that are traced.
pub const MOST: usize = 16;

/// An address to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose address it is.
    pub peer: Arc<Peer>,
    /// The address.
    pub address: IpAddr,
}

/// The targets of a configuration, or what is wrong with it.
pub fn targets(config: &Config) -> Result<Vec<Target>, String> {
    let wanted = &config.probes.path.active.peers;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let peers = Peers::new(&config.peers, &config.region, &config.zone).map_err(|e| e.to_string())?;
    let mut out: Vec<Target> = Vec::new();
    for entry in wanted {
        let addresses = match entry.split_once('=') {
            Some((name, address)) => vec![one(name, address, &peers)?],
            None => all(entry, config)?,
        };
        for address in addresses {
            let peer = peers.get(peers.lookup(address)).clone();
            let target = Target { peer, address };
            if !out.contains(&target) {
                out.push(target);
            }
        }
    }
    if out.len() > MOST {
        return Err(format!("{} addresses are more than {MOST}", out.len()));
    }
    Ok(out)
}

fn one(name: &str, address: &str, peers: &Peers) -> Result<IpAddr, String> {
    let parsed: IpAddr = address
        .parse()
        .ok()
        .ok_or_else(|| format!("{address} is no address"))?;
    let owner = &peers.get(peers.lookup(parsed)).name;
    if owner != name {
        return Err(format!("{address} is an address of peer {owner}, not of {name}"));
    }
    Ok(parsed)
}

/// All addresses of a peer, which has no wider prefix.
fn all(name: &str, config: &Config) -> Result<Vec<IpAddr>, String> {
    let cidrs: Vec<_> = config
        .peers
        .iter()
        .filter(|p| p.name == name)
        .flat_map(|p| &p.cidrs)
        .collect();
    if cidrs.is_empty() {
        return Err(format!("there is no peer {name:?} in `peers`"));
    }
    if let Some(wide) = cidrs.iter().find(|c| c.prefix_len() < 128) {
        return Err(format!(
            "peer {name} is all of {wide}; say which address: {name}=ADDRESS"
        ));
    }
    let address = |bits| {
        let v6 = Ipv6Addr::from_bits(bits);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    };
    Ok(cidrs.iter().map(|c| address(c.bits())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(active: &str) -> Result<Vec<Target>, String> {
        let yaml = format!(
            "peers:\n- {{name: db, region: r, cidrs: [10.1.2.3, '2001:db8::1']}}\n\
             - {{name: net, cidrs: [10.2.0.0/16]}}\nprobes: {{path: {{active: {{peers: [{active}]}}}}}}\n"
        );
        targets(&serde_yaml_ng::from_str(&yaml).unwrap())
    }

    #[test]
    fn only_addresses_of_peers_that_are_named() {
        let found = config("db, net=10.2.3.4, db=10.1.2.3").unwrap();
        let addresses: Vec<_> = found
            .iter()
            .map(|t| (t.peer.name.as_str(), t.address.to_string()))
            .collect();
        assert_eq!(
            addresses,
            [
                ("db", "10.1.2.3".into()),
                ("db", "2001:db8::1".into()),
                ("net", "10.2.3.4".into())
            ]
        );
        assert_eq!(config("").unwrap(), []);
        for (wrong, why) in [
            ("net", "say which address: net=ADDRESS"),
            ("nobody", "no peer \"nobody\""),
            ("net=10.1.2.3", "an address of peer db, not of net"),
            ("net=10.9.9.9", "an address of peer private"),
            ("net=here", "no address"),
        ] {
            let error = config(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
        let many: Vec<String> = (0..17).map(|i| format!("net=10.2.0.{i}")).collect();
        assert!(config(&many.join(", ")).unwrap_err().contains("more than 16"));
    }
}
