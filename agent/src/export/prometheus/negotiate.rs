//! Which format a scraper gets, by its Accept header (RFC 9110, section 12.5.1).

/// A format of exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0 text.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
    /// `io.prometheus.client.MetricFamily`, length-delimited, with native histograms.
    Protobuf,
}

impl Format {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// The format that the scraper likes best. Of equals the first that it names; nothing acceptable, no header and
/// wildcards alone mean the old text, which everything reads, people included.
pub fn negotiate(accept: Option<&str>) -> Format {
    let mut best = (Format::Text, 0);
    for range in accept.unwrap_or_default().split(',').take(32) {
        if let Some((format, q)) = media_range(range)
            && q > best.1
        {
            best = (format, q);
        }
    }
    best.0
}

/// Format and quality in thousandths of a media range that names one of ours.
fn media_range(range: &str) -> Option<(Format, u16)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    let (mut q, mut version, mut message, mut delimited) = (1000, None, false, false);
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => {
                // NaN and what is out of range refuse: a scraper that errs gets what it names next.
                let given: f32 = value.parse().unwrap_or(0.0);
                q = if (0.0..=1.0).contains(&given) {
                    (given * 1000.0) as u16
                } else {
                    0
                };
            }
            "version" => version = Some(value),
            "proto" => message = value == "io.prometheus.client.MetricFamily",
            "encoding" => delimited = value == "delimited",
            _ => {}
        }
    }
    let format = match (media_type.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0")) => Format::OpenMetrics,
        ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Format::Text,
        ("application/vnd.google.protobuf", _) if message && delimited => Format::Protobuf,
        _ => return None,
    };
    Some((format, q))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_scrapers_get_what_they_want() {
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
            application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let v3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
            text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(negotiate(Some(native)), Format::Protobuf);
        assert_eq!(negotiate(Some(v3)), Format::OpenMetrics);
        assert_eq!(
            negotiate(Some("text/html,application/xhtml+xml,*/*;q=0.8")),
            Format::Text
        );
        assert_eq!(negotiate(None), Format::Text);
    }

    #[test]
    fn quality_decides_and_nonsense_does_not() {
        for (accept, want) in [
            ("application/openmetrics-text;q=0", Format::Text),
            (
                "application/openmetrics-text;q=nan, text/plain;q=0.1",
                Format::Text,
            ),
            (
                "text/plain;q=0.5, application/openmetrics-text; version=\"1.0.0\"; Q=0.6",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/vnd.google.protobuf", Format::Text),
            (";;;=,=;q", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(negotiate(Some(accept)), want, "{accept}");
        }
    }
}
