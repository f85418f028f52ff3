//! A fleet from end to end: the way from one region to another begins to lose, and the dashboards, the health of the regions and
//! the fleet's alerts say so of this way, and of no other.
//!
//! What stands for what. A network namespace is a node, and the only one of its region; in `eu` and `us` there is an agent, in
//! `ap` there is none, as where geophone is not yet. A router between them is the net, and drops packets of the VXLAN from `eu` to
//! `us`: there lies the loss, on no node. One kernel serves all of it and each agent sees all of its sockets, which on machines of
//! their own they do not: Prometheus takes from an agent only what the processes of its node did, by their names
//! (`metric_relabel_configs`), and that this is right is compared with what the kernel says of each namespace. Regions, peers and
//! all else are what the agents say. Prometheus has the configuration and the rules of deploy/prometheus, scrapes each second over
//! TLS with a token, and takes four seconds for a minute of fleet.yaml. What it is asked are the queries of deploy/grafana.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::harness::fleet::{Fleet, Watch};
use tests::harness::notify::within;
use tests::harness::{Traffic, equal};
use tests::need_root;

/// With an agent each.
const WATCHED: [&str; 2] = ["eu", "us"];
/// Who sends to whom.
const WAYS: [(&str, &str); 4] = [("eu", "us"), ("us", "eu"), ("eu", "ap"), ("us", "ap")];
/// The one that loses.
const LOSSY: (&str, &str) = WAYS[0];
/// One packet of so many is lost.
const ONE_OF: u32 = 20;
/// The longest time for something that is to be seen.
const PATIENCE: Duration = Duration::from_secs(90);
/// So many points a region's health falls at least.
const POINTS: f64 = 10.0;

type Labels = BTreeMap<String, String>;

/// A query's answer: labels and value.
type Rows = Vec<(Labels, f64)>;

/// A dashboard of deploy/grafana, and what a user has chosen in it.
struct Board {
    json: Value,
    /// Region and node.
    chosen: Option<(&'static str, String)>,
}

impl Board {
    fn read(name: &str) -> Result<Self> {
        let file = format!("../deploy/grafana/geophone-{name}.json");
        let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).context(file)?;
        Ok(Self {
            json: serde_json::from_slice(&text)?,
            chosen: None,
        })
    }

    fn of(mut self, region: &'static str) -> Self {
        self.chosen = Some((region, format!("node-{region}")));
        self
    }

    /// The panel of this title; where there are two, the first is a single number.
    fn panel(&self, title: &str) -> Result<&Value> {
        let mut panels = self.json["panels"].as_array().into_iter().flatten();
        let found = panels.rfind(|panel| panel["title"] == title);
        found.with_context(|| format!("no panel {title:?}"))
    }

    /// What Grafana puts in place of a variable: what is chosen; of all, what stands for all, or each one.
    fn value(&self, variable: &Value) -> String {
        match (&self.chosen, variable["name"].as_str()) {
            (Some((region, _)), Some("region")) => (*region).to_owned(),
            (Some((_, node)), Some("instance")) => node.clone(),
            (_, Some("instance")) => {
                format!("({})", WATCHED.map(|region| format!("node-{region}")).join("|"))
            }
            _ => variable["allValue"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// The first query of a panel, as Prometheus gets it.
    fn query(&self, title: &str) -> Result<String> {
        let mut query = self.panel(title)?["targets"][0]["expr"]
            .as_str()
            .context("no query")?
            .to_owned();
        // As Grafana has it where Prometheus is scraped each second.
        query = query.replace("$__rate_interval", "15s");
        let mut variables: Vec<&Value> = self.json["templating"]["list"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        // `$peer` is no part of `$peer_region`.
        variables.sort_by_key(|variable| std::cmp::Reverse(variable["name"].as_str().map(str::len)));
        for variable in variables {
            let name = variable["name"].as_str().context("a variable without a name")?;
            query = query.replace(&format!("${name}"), &self.value(variable));
        }
        ensure!(!query.contains('$'), "{title}: a variable is left: {query}");
        Ok(query)
    }

    fn ask(&self, watch: &Watch, title: &str) -> Result<Rows> {
        let rows = watch.ask(&self.query(title)?)?;
        let row = |row: Value| {
            let labels = serde_json::from_value(row["metric"].clone())?;
            let value = row["value"][1]
                .as_str()
                .with_context(|| format!("{title}: {row}"))?;
            Ok((labels, value.parse()?))
        };
        rows.into_iter().map(row).collect()
    }

    /// Its answer by the values of some labels.
    fn by<const N: usize>(
        &self,
        watch: &Watch,
        title: &str,
        by: [&str; N],
    ) -> Result<BTreeMap<[String; N], f64>> {
        let rows = self.ask(watch, title)?.into_iter();
        Ok(rows
            .map(|(labels, value)| (by.map(|label| of(&labels, label).to_owned()), value))
            .collect())
    }

    /// In which colour a panel shows a value.
    fn colour(&self, title: &str, value: f64) -> Result<String> {
        let steps = &self.panel(title)?["fieldConfig"]["defaults"]["thresholds"]["steps"];
        let steps = steps.as_array().into_iter().flatten();
        let mut reached = steps.filter(|step| step["value"].as_f64().is_none_or(|from| value >= from));
        let colour = reached.next_back().and_then(|step| step["color"].as_str());
        Ok(colour
            .with_context(|| format!("{title} has no colours"))?
            .to_owned())
    }
}

fn of<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels.get(name).map_or("", String::as_str)
}

fn way((from, to): (&str, &str)) -> [String; 2] {
    [from, to].map(str::to_owned)
}

/// Everything that is looked at.
struct Seen {
    watch: Watch,
    overview: Board,
    tunnels: Board,
}

impl Seen {
    fn until<T>(&self, what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let begin = Instant::now();
        let found = within(PATIENCE, what, || {
            std::thread::sleep(Duration::from_millis(500));
            check()
        });
        println!("{what}: {:.0} s", begin.elapsed().as_secs_f64());
        found.with_context(|| self.watch.log())
    }

    /// The matrix of what is sent again; an error if a way that is well is not green in it.
    fn matrix(&self) -> Result<BTreeMap<[String; 2], f64>> {
        const TITLE: &str = "Segments sent again";
        let cells = self.overview.by(&self.watch, TITLE, ["region", "peer_region"])?;
        for (cell, value) in cells.iter().filter(|(cell, _)| **cell != way(LOSSY)) {
            let colour = self.overview.colour(TITLE, *value)?;
            ensure!(
                colour == "green",
                "{cell:?} loses nothing and is {colour}: {cells:?}"
            );
        }
        Ok(cells)
    }

    fn colour(&self) -> Result<Option<String>> {
        let lossy = self.matrix()?.get(&way(LOSSY)).copied();
        lossy
            .map(|value| self.overview.colour("Segments sent again", value))
            .transpose()
    }

    /// By region.
    fn health(&self) -> Result<BTreeMap<String, f64>> {
        let all = self.overview.by(&self.watch, "Health by region", ["region"])?;
        Ok(all.into_iter().map(|([region], score)| (region, score)).collect())
    }

    /// The alerts that fire; an error if one is of what is well.
    fn alerts(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for (labels, _) in self.overview.ask(&self.watch, "Alerts that fire")? {
            let node = of(&labels, "instance");
            let is_of = |region: &str| of(&labels, "region") == region || node == format!("node-{region}");
            ensure!(
                is_of(LOSSY.0) && !is_of(LOSSY.1),
                "an alert of what is well: {labels:?}"
            );
            let name = of(&labels, "alertname").to_owned();
            if name.starts_with("GeophoneRegion") && labels.contains_key("peer_region") {
                equal(
                    "the way that an alert names",
                    [of(&labels, "region"), of(&labels, "peer_region")],
                    LOSSY.into(),
                )?;
            }
            names.insert(name);
        }
        Ok(names)
    }
}

/// Servers on each node, and who sends to them from the others; those end with the value.
fn talk(fleet: &Fleet) -> Result<(Vec<Traffic>, Vec<Traffic>)> {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for (from, to) in WAYS {
        let mut server = Traffic::new(to, &fleet.node(to)?.end.ns)?;
        let at = server.serve(&format!("{}:0", fleet.inside(from, to)?), "sink")?;
        let mut client = Traffic::new(from, &fleet.node(from)?.end.ns)?;
        let connection = client.connect(&at)?;
        // 92 segments at once: what is lost of the answers is made good by the next of them.
        client.drip(connection, 128 << 10, Duration::from_millis(100))?;
        servers.push(server);
        clients.push(client);
    }
    Ok((servers, clients))
}

/// Cause: the net between three regions begins to lose a twentieth of the packets of one VXLAN in one direction, and stops. Seen:
/// the matrix has the ways that are talked over and is red at this one alone; the health of the region that sends falls, that of
/// the other does not; GeophoneRegionLoss fires for this way and no alert does for another; the tables name node and peer; each
/// agent counts as many segments sent again as its namespace; all of it ends with the loss.
#[test]
fn a_loss_between_two_regions_is_seen_there_and_nowhere_else() -> Result<()> {
    need_root!("nft", "openssl", "prometheus", "ethtool");
    let fleet = Fleet::new(&["eu", "us", "ap"])?;
    let seen = Seen {
        watch: Watch::start(&fleet, &WATCHED)?,
        overview: Board::read("overview")?,
        tunnels: Board::read("tunnels")?,
    };
    seen.until("both agents are scraped", || {
        let up = seen.watch.ask(r#"up{job="geophone"} == 1"#)?;
        Ok((up.len() == WATCHED.len()).then_some(()))
    })?;
    let (_servers, clients) = talk(&fleet)?;
    let ways: BTreeSet<[String; 2]> = WAYS.map(way).into();
    let well = seen.until("the matrix and the health of both regions", || {
        let health = seen.health()?;
        let cells: BTreeSet<_> = seen.matrix()?.into_keys().collect();
        Ok((cells == ways && health.len() == WATCHED.len()).then_some(health))
    })?;
    ensure!(
        well.values().all(|score| *score > 95.0),
        "health before the loss: {well:?}"
    );
    for title in [
        "Round trip from region to region, median",
        "Round trip, p99",
        "Traffic",
    ] {
        let cells = seen.overview.by(&seen.watch, title, ["region", "peer_region"])?;
        equal(
            title,
            cells.keys().cloned().collect::<BTreeSet<_>>(),
            ways.clone(),
        )?;
        ensure!(cells.values().all(|value| *value > 0.0), "{title}: {cells:?}");
    }
    let nodes = seen.overview.by(&seen.watch, "Nodes", ["region"])?;
    let one_each: BTreeMap<[String; 1], f64> = WATCHED.map(|region| ([region.to_owned()], 1.0)).into();
    equal("nodes by region", nodes, one_each)?;
    let up = seen.tunnels.by(
        &seen.watch,
        "Tunnels",
        ["instance", "type", "remote_region", "state"],
    )?;
    let tunnels: BTreeSet<[String; 4]> = WAYS
        .map(|(from, to)| [&*format!("node-{from}"), "vxlan", to, "up"].map(str::to_owned))
        .into();
    equal("tunnels", up.into_keys().collect::<BTreeSet<_>>(), tunnels)?;
    equal("alerts before the loss", seen.alerts()?, BTreeSet::new())?;

    fleet.lose(LOSSY.0, LOSSY.1, ONE_OF)?;
    seen.until("the way is red in the matrix", || {
        Ok((seen.colour()?.as_deref() == Some("red")).then_some(()))
    })?;
    seen.until("GeophoneRegionLoss fires", || {
        seen.matrix()?;
        Ok(seen.alerts()?.contains("GeophoneRegionLoss").then_some(()))
    })?;
    let ill = seen.until("the health of the region falls", || {
        seen.matrix()?;
        seen.alerts()?;
        let health = seen.health()?;
        let fell = |region: &str| {
            let score =
                |all: &BTreeMap<String, f64>| all.get(region).copied().context("a region without health");
            anyhow::Ok(score(&well)? - score(&health)?)
        };
        ensure!(
            fell(LOSSY.1)? < POINTS / 2.0,
            "the region that loses nothing is unwell too: {health:?}, and was {well:?}"
        );
        Ok((fell(LOSSY.0)? > POINTS).then_some(health))
    })?;
    println!("health by region: {well:?}, then {ill:?}");
    println!("segments sent again: {:?}", seen.matrix()?);
    for (region, lossy) in [(LOSSY.0, Some(LOSSY.1)), (LOSSY.1, None)] {
        let board = Board::read("region")?.of(region);
        let cells = board.by(&seen.watch, "Segments sent again", ["peer_region"])?;
        let is_there = lossy.is_none_or(|to| cells.contains_key(&[to.to_owned()]));
        ensure!(is_there, "dashboard of {region}: {cells:?}");
        for ([to], value) in cells {
            let colour = board.colour("Segments sent again", value)?;
            let expected = if lossy == Some(&*to) { "red" } else { "green" };
            equal(
                &format!("dashboard of {region}, way to {to}: {value}"),
                &*colour,
                expected,
            )?;
        }
    }
    let factors = seen.overview.by(
        &seen.watch,
        "Least healthy",
        ["instance", "entity", "name", "factor"],
    )?;
    let lost = |node: &str, entity: &str, name: &str| {
        let key = [node, entity, name, "loss"].map(str::to_owned);
        factors.contains_key(&key)
    };
    let (node, other) = (format!("node-{}", LOSSY.0), format!("node-{}", LOSSY.1));
    ensure!(
        lost(&node, "region", LOSSY.1),
        "not among the least healthy: {factors:?}"
    );
    let well_too = factors.keys().find(|[instance, _, name, factor]| {
        factor == "loss" && (*instance == other || name == "ap" || name == "all-ap")
    });
    ensure!(well_too.is_none(), "{well_too:?} loses nothing");
    let pairs = seen.overview.ask(&seen.watch, "Pairs that lose most")?;
    let worst = pairs
        .iter()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .context("no pair loses")?;
    equal(
        "who loses most",
        (of(&worst.0, "instance"), of(&worst.0, "peer")),
        (&*node, "all-us"),
    )?;

    let lost = fleet.recover()?;
    ensure!(lost > 0, "nft has dropped nothing");
    seen.until("all is well again", || {
        let alerts = seen.alerts()?;
        Ok((alerts.is_empty() && seen.colour()?.as_deref() == Some("green")).then_some(()))
    })?;
    drop(clients);
    let mut again = BTreeMap::new();
    for region in WATCHED {
        let told = format!("sum(geophone_tcp_retransmits_total{{instance=\"node-{region}\"}}) or vector(0)");
        let truth = seen.until(&format!("what the kernel counts in {region}"), || {
            let truth = fleet.node(region)?.end.ns.counters()?.get("Tcp.RetransSegs") as f64;
            let told = seen.watch.ask(&told)?;
            let told = told
                .first()
                .and_then(|one| one["value"][1].as_str()?.parse::<f64>().ok());
            // The kernel counts what the agent itself sends to Prometheus as well, on a way that loses nothing.
            let own = told
                .map(|told| truth - told)
                .filter(|own| (0.0..=5.0).contains(own));
            Ok(own.map(|_| truth))
        })?;
        again.insert(region, truth);
    }
    println!("{lost} packets were lost; segments sent again, by the kernel: {again:?}");
    let [from, to] = WATCHED.map(|region| again.get(region).copied().unwrap_or_default());
    ensure!(
        from > 100.0 && to < from / 10.0,
        "the loss has hit somebody else: {again:?}"
    );
    let agents = seen.watch.agents;
    agents.into_values().try_for_each(|agent| agent.stop().map(drop))
}
