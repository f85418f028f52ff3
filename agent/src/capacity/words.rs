//! What a forecast means, in words and with its numbers.

use super::report::Resource;
use crate::ui::units::{bytes, bytes_rate, count, percent, span};
use agent_score::capacity::{DAYS, Exhaustion, Forecast};

/// From here on something is said of what does not grow.
pub(super) const NEARLY_FULL: f64 = 0.9;
const DAY: f64 = 86_400.0;

/// So much of a resource. What is below nothing is nothing: an interval knows no bound.
pub fn amount(unit: &str, value: f64) -> String {
    let value = value.max(0.0);
    match unit {
        "By" => bytes(value),
        "By/s" => bytes_rate(value),
        "cores" => format!("{value:.2} cores"),
        _ => count(value),
    }
}

/// Growth, with its sign.
pub fn growth(unit: &str, value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "+" };
    // Fewer than ten pieces a day are told to a tenth.
    let text = match unit {
        "" if value.abs() < 9.95 => format!("{:.1}", value.abs()),
        unit => amount(unit, value.abs()),
    };
    format!("{sign}{text}")
}

/// When something is used up: the middle, and its interval.
pub fn when(exhaustion: &Exhaustion) -> String {
    let days = |days: f64| span(days * DAY);
    match exhaustion {
        Exhaustion::Reached => "now".to_owned(),
        Exhaustion::NotWithin {
            days: reach,
            earliest,
        } => {
            let perhaps = earliest.map_or_else(String::new, |early| format!(", perhaps in {}", days(early)));
            format!("not in {}{perhaps}", days(*reach))
        }
        Exhaustion::In {
            days: middle,
            earliest,
            latest,
        } => {
            let latest = latest.map_or("perhaps never".to_owned(), days);
            format!("in {} ({} to {latest})", days(*middle), days(*earliest))
        }
    }
}

/// What there is to be done about a resource.
fn remedy(resource: &str, name: &str) -> &'static str {
    match (resource, name) {
        ("cpu", _) => "add cores, or move work to another machine",
        ("memory", name) if !name.is_empty() => {
            "raise its memory limit, or find what it keeps: at the limit the kernel kills it"
        }
        ("tasks", _) => "raise its pids limit, or find what starts threads and keeps them",
        ("file_descriptors", name) if !name.is_empty() => {
            "raise its RLIMIT_NOFILE, or find what it does not close"
        }
        ("memory", _) => "add memory, or move work to another machine",
        ("swap", _) => "add memory: swap only hides that there is too little",
        ("tcp_memory", _) => "raise net.ipv4.tcp_mem, or find who leaves socket buffers full",
        ("tcp_orphans", _) => {
            "raise net.ipv4.tcp_max_orphans, or find who closes connections with unsent data"
        }
        ("tcp_time_wait", _) => "reuse connections, or raise net.ipv4.tcp_max_tw_buckets",
        ("conntrack", _) => "raise net.netfilter.nf_conntrack_max, or shorten its timeouts",
        ("file_descriptors", _) => "raise fs.file-max, or find who leaks them",
        ("threads", _) => "raise kernel.threads-max and kernel.pid_max, or find who starts them",
        ("neighbours", _) => "raise net.ipv4.neigh.default.gc_thresh3, or make the subnet smaller",
        ("filesystem", _) => "free space, or enlarge the file system",
        ("inodes", _) => "remove small files, or make a file system with more inodes",
        ("ephemeral_ports", _) => {
            "reuse connections, widen net.ipv4.ip_local_port_range, or use more addresses"
        }
        ("listen_queue", _) => "accept faster, or raise the backlog of listen() and net.core.somaxconn",
        ("interface", _) => "use a faster link, or move traffic to another",
        ("map", "PAIRS") => "raise limits.memory or limits.pairs: what finds no room is counted as other",
        ("map", "DROPS") => "raise limits.drop_keys: what finds no room is counted as other",
        ("map", "TUNNELS") => "raise limits.tunnels: what finds no room is counted as other",
        _ => "what finds no room is counted as other",
    }
}

/// What is used of what there is.
fn standing(one: &Resource) -> String {
    let used = one
        .used
        .map_or_else(|| "an unknown part".to_owned(), |used| amount(&one.unit, used));
    match (one.limit, one.utilization) {
        (Some(limit), Some(share)) => format!(
            "{used} of {} are used ({})",
            amount(&one.unit, limit),
            percent(share)
        ),
        _ => format!("{used} are used"),
    }
}

/// What is wanted to last as long as can be seen; what is to be done follows.
fn need(one: &Resource, forecast: &Forecast) -> String {
    let last = DAYS.iter().zip(&forecast.values).rev();
    let seen = last.into_iter().find_map(|(days, value)| Some((days, (*value)?)));
    seen.map_or_else(
        || ";".to_owned(),
        |(days, value)| {
            let wanted = amount(&one.unit, value.upper);
            format!(". For {days:.0} days more it needs {wanted} at most:")
        },
    )
}

/// What to do about a resource.
pub fn recommendation(one: &Resource) -> String {
    let (title, standing, remedy) = (one.title(), standing(one), remedy(&one.resource, &one.name));
    let nearly_full = one.utilization.is_some_and(|share| share >= NEARLY_FULL);
    let Some(best) = one.forecast.as_ref().and_then(|forecast| forecast.best()) else {
        let why = one.not_enough.as_deref().unwrap_or("not enough data");
        return match nearly_full {
            true => format!("{title} is nearly exhausted: {standing}; {remedy}. No forecast: {why}"),
            false => format!("no forecast: {why}; {standing}"),
        };
    };
    let grows = growth(&one.unit, best.per_day.value);
    match best.exhaustion {
        None => format!("no limit is known; {standing}, {grows} a day"),
        Some(Exhaustion::Reached) => format!("{title} is exhausted: {standing}; {remedy}"),
        Some(exhaustion @ Exhaustion::In { .. }) => format!(
            "{title} is exhausted {}: {standing}, {grows} a day{} {remedy}",
            when(&exhaustion),
            need(one, best)
        ),
        Some(Exhaustion::NotWithin { days, earliest }) => {
            let reach = span(days * DAY);
            match (nearly_full, earliest) {
                (true, _) => format!(
                    "{title} is nearly exhausted, if not by its trend ({grows} a day) in {reach}: {standing}; {remedy}"
                ),
                (false, Some(earliest)) => format!(
                    "{title} may be exhausted in {} at the earliest, by no sure trend in {reach}: {standing}, \
                     {grows} a day; more days of data will tell; to be safe, {remedy}",
                    span(earliest * DAY)
                ),
                (false, None) => format!(
                    "nothing to do: {standing}, {grows} a day; not exhausted within {reach}, as far as can be seen"
                ),
            }
        }
    }
}

/// What runs out first; `first` is what comes first of all that does harm.
pub fn bottleneck(first: Option<&Resource>) -> String {
    match first {
        None => "nothing is known yet of what can run out".to_owned(),
        Some(one) if one.days().is_some() => format!("first of all: {}", one.recommendation),
        Some(one) if one.earliest().is_some() => {
            format!(
                "nothing runs out by its trend; first may be: {}",
                one.recommendation
            )
        }
        Some(one) if one.forecast.is_none() => {
            format!(
                "no forecast yet; the fullest is {}: {}",
                one.title(),
                standing(one)
            )
        }
        Some(one) => format!(
            "nothing runs out as far as can be seen; the fullest is {}: {}",
            one.title(),
            standing(one)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::testing::{noisy, resource};

    #[test]
    fn what_fills_up_is_told_with_when_and_how_much_is_needed() {
        let disk = resource("filesystem", "vda1", 40e9, 60e9, 1e9);
        let text = disk.recommendation;
        for words in [
            "filesystem vda1 is exhausted in 20d",
            "40.0GB of 60.0GB are used (66.7%)",
            "+1.00GB a day",
            "For 90 days more it needs 13",
            "free space, or enlarge the file system",
        ] {
            assert!(text.contains(words), "{text}\nhas no {words}");
        }
    }

    #[test]
    fn what_does_not_grow_is_left_alone_unless_it_is_full() {
        let calm = resource("conntrack", "", 100.0, 1000.0, 0.0);
        assert!(
            calm.recommendation
                .starts_with("nothing to do: 100 of 1000 are used (10.0%), +0.0 a day"),
            "{}",
            calm.recommendation
        );
        let full = resource("conntrack", "", 950.0, 1000.0, 0.0);
        assert!(
            full.recommendation.contains("nearly exhausted")
                && full.recommendation.contains("nf_conntrack_max"),
            "{}",
            full.recommendation
        );
        let over = resource("conntrack", "", 1000.0, 1000.0, 0.0);
        assert!(
            over.recommendation.starts_with("conntrack is exhausted: 1000 of"),
            "{}",
            over.recommendation
        );
    }

    /// Cause: three days of a growth under noise that reaches the limit within what can be seen only at its steepest. Seen: that it
    /// may, when, and what to do; never that there is nothing to do.
    #[test]
    fn what_may_be_exhausted_is_not_left_alone() {
        let one = noisy("filesystem", "vda1", 92e9);
        for words in [
            "filesystem vda1 may be exhausted in 2",
            "by no sure trend in 29d",
            "of 92.0GB are used",
            "free space",
        ] {
            assert!(
                one.recommendation.contains(words),
                "no {words:?} in {}",
                one.recommendation
            );
        }
        assert!(one.days().is_none() && one.earliest().is_some_and(|days| days < 29.0));
        let first = bottleneck(Some(&one));
        assert!(
            first.starts_with("nothing runs out by its trend; first may be: filesystem vda1 may be"),
            "{first}"
        );
        let far = noisy("filesystem", "vda1", 1e12);
        assert!(
            far.recommendation.starts_with("nothing to do: "),
            "{}",
            far.recommendation
        );
        assert_eq!(far.earliest(), None);
    }

    /// Cause: not quite three days of a table of connections, of CPU, and of a file system. Seen: a trend of the file system alone.
    #[test]
    fn what_people_use_has_no_trend_before_three_days() {
        for kind in ["conntrack", "memory", "ephemeral_ports", "cpu", "interface"] {
            let why = noisy(kind, "", 92e9).not_enough;
            assert_eq!(
                why.as_deref(),
                Some("not enough data: seen 2.9 of 3 days"),
                "{kind}"
            );
        }
        for kind in ["filesystem", "inodes", "map"] {
            assert!(noisy(kind, "", 92e9).forecast.is_some(), "{kind}");
        }
    }

    #[test]
    fn the_first_to_run_out_is_the_bottleneck() {
        assert!(bottleneck(None).contains("nothing is known"));
        let calm = resource("cpu", "", 1.0, 2.0, 0.0);
        assert_eq!(
            bottleneck(Some(&calm)),
            "nothing runs out as far as can be seen; the fullest is cpu: 1.00 cores of 2.00 cores are used (50.0%)"
        );
        let early = Resource {
            forecast: None,
            ..calm
        };
        assert!(bottleneck(Some(&early)).starts_with("no forecast yet; the fullest is cpu: "));
        let disk = resource("filesystem", "vda1", 40e9, 60e9, 1e9);
        assert!(bottleneck(Some(&disk)).starts_with("first of all: filesystem vda1"));
    }
}
