//! What is asked of both. `$` in a template stands for each of its fillings.

/// All queries.
pub fn all() -> Vec<String> {
    let mut all: Vec<String> = SINGLE.iter().map(|query| (*query).to_owned()).collect();
    for (template, fillings) in TEMPLATES {
        all.extend(fillings.iter().map(|filling| template.replace('$', filling)));
    }
    all
}

const AGGREGATIONS: &[&str] = &["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"];

const RANGE_FUNCTIONS: &[&str] = &[
    "rate",
    "increase",
    "delta",
    "irate",
    "idelta",
    "deriv",
    "resets",
    "changes",
    "avg_over_time",
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "count_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "last_over_time",
    "present_over_time",
    "absent_over_time",
];

const MATH: &[&str] = &[
    "abs", "ceil", "floor", "round", "exp", "sqrt", "ln", "log2", "log10", "sin", "cos", "tan", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "deg", "rad", "sgn",
];

const DATES: &[&str] = &[
    "minute",
    "hour",
    "day_of_week",
    "day_of_month",
    "day_of_year",
    "days_in_month",
    "month",
    "year",
];

const ARITHMETIC: &[&str] = &["+", "-", "*", "/", "%", "^", "atan2"];

const COMPARISONS: &[&str] = &["==", "!=", ">", "<", ">=", "<="];

const OPERANDS: &[&str] = &[
    "+", "-", "*", "/", "%", "^", "atan2", "==", "!=", ">", "<", ">=", "<=", "> bool", "== bool",
];

const QUANTILES: &[&str] = &["-0.1", "0", "0.1", "0.5", "0.9", "0.99", "1", "1.1", "NaN"];

/// Not 0: whether Prometheus says NaN then depends on empty buckets that its chunks have or have not.
const ABOVE_ZERO: &[&str] = &["-0.1", "0.01", "0.1", "0.5", "0.9", "0.99", "1", "1.1", "NaN"];

#[rustfmt::skip]
const TEMPLATES: &[(&str, &[&str])] = &[
    ("$(http_requests_total)", AGGREGATIONS),
    ("$ by (job) (http_requests_total)", AGGREGATIONS),
    ("$ without (instance, code) (http_requests_total)", AGGREGATIONS),
    ("$ by (kind) (odd)", &["sum", "avg", "min", "max", "count", "group"]),
    ("$(odd{kind=~\"mixed|inf|zero|constant\"})", AGGREGATIONS),
    ("$(huge)", &["sum", "avg", "min", "max"]),
    ("$(huge[2m])", &["sum_over_time", "avg_over_time", "max_over_time", "rate", "delta", "increase"]),
    ("$(temperature_celsius)", AGGREGATIONS),
    ("quantile($, temperature_celsius)", QUANTILES),
    ("quantile by (job) ($, http_requests_total)", QUANTILES),
    ("topk($, http_requests_total)", &["0", "1", "3", "100", "-1"]),
    ("bottomk($, temperature_celsius)", &["0", "1", "3", "100"]),
    ("topk by (job) ($, http_requests_total)", &["1", "2"]),
    ("$(http_requests_total[5m])", RANGE_FUNCTIONS),
    ("$(http_requests_total[47s])", RANGE_FUNCTIONS),
    ("$(temperature_celsius[3m])", RANGE_FUNCTIONS),
    ("$(level[10m])", RANGE_FUNCTIONS),
    ("$(odd[2m])", RANGE_FUNCTIONS),
    ("$(odd_total[4m])", RANGE_FUNCTIONS),
    ("$(level[6m] offset 2m)", RANGE_FUNCTIONS),
    ("$(level[6m] offset -90s)", RANGE_FUNCTIONS),
    ("$(http_requests_total[5m] @ 1600001800)", RANGE_FUNCTIONS),
    ("$(sum by (job) (http_requests_total)[9m:1m])", RANGE_FUNCTIONS),
    ("$(temperature_celsius[7m:20s] offset 1m)", RANGE_FUNCTIONS),
    ("$(rate(http_requests_total[1m])[5m:])", RANGE_FUNCTIONS),
    ("$(nothing_at_all[5m])", RANGE_FUNCTIONS),
    ("quantile_over_time($, temperature_celsius[5m])", QUANTILES),
    ("quantile_over_time($, odd[5m])", QUANTILES),
    ("$(odd)", MATH),
    ("$(level)", MATH),
    ("$(temperature_celsius / 10)", MATH),
    ("$(vector(-0.5))", MATH),
    ("$()", DATES),
    ("$(clock_seconds)", DATES),
    ("$(vector(1709251199))", DATES),
    ("$(level)", DATES),
    ("level $ 3", OPERANDS),
    ("3 $ level", OPERANDS),
    ("odd $ 2", OPERANDS),
    ("2 $ odd", OPERANDS),
    ("level $ level", OPERANDS),
    ("odd $ odd", OPERANDS),
    ("level $ ignoring(tank) group_left level{tank=\"a\"}", OPERANDS),
    ("7.5 $ 2", ARITHMETIC),
    ("7.5 $ bool 2", COMPARISONS),
    ("NaN $ bool NaN", COMPARISONS),
    ("time() $ 7", ARITHMETIC),
    ("http_requests_total $ on(job) group_left job_limit", OPERANDS),
    ("job_limit $ on(job) group_right http_requests_total", OPERANDS),
    ("http_requests_total $ on(job) job_limit", &["and", "or", "unless"]),
    ("http_requests_total $ on(instance) (http_requests_total > 3000)", &["and", "or", "unless"]),
    ("level $ (level > 2)", &["and", "or", "unless"]),
    ("level $ ignoring(tank) level{tank=\"c\"}", &["and", "or", "unless"]),
    ("sum by (job) (http_requests_total) $ sum by (team) (job_owner)", &["and", "or", "unless"]),
    ("histogram_quantile($, latency_seconds_bucket)", QUANTILES),
    ("histogram_quantile($, rate(latency_seconds_bucket[5m]))", QUANTILES),
    ("histogram_quantile($, sum by (le) (rate(latency_seconds_bucket[2m])))", QUANTILES),
    ("histogram_quantile($, rpc_seconds)", ABOVE_ZERO),
    ("histogram_quantile($, rate(rpc_seconds[5m]))", ABOVE_ZERO),
    ("histogram_quantile($, balance)", ABOVE_ZERO),
    ("histogram_quantile($, sum(rate(rpc_seconds[5m])))", ABOVE_ZERO),
    (
        "$(rpc_seconds)",
        &[
            "histogram_count", "histogram_sum", "absent", "timestamp", "scalar", "vector(scalar)",
        ],
    ),
    ("$(balance)", &["histogram_count", "histogram_sum", "sum", "count", "group"]),
    ("$(rpc_seconds[5m])", &["rate", "increase", "count_over_time", "present_over_time", "absent_over_time"]),
    ("delta(balance[$])", &["31s", "5m"]),
    (
        "histogram_fraction($, rpc_seconds)",
        &["0, 1", "-Inf, 0.5", "0.1, +Inf", "1, 0", "NaN, 1", "0.3, 0.31"],
    ),
    ("histogram_fraction($, balance)", &["-1, 1", "-Inf, 0", "0, +Inf", "-0.005, 0.005"]),
    ("sum$(rpc_seconds)", &["", " by (job) ", " without (job) "]),
    (
        "rpc_seconds $",
        &[
            "", "+ rpc_seconds", "offset 1m", "@ 1600000900", "and on(job) job_limit", "or job_limit",
        ],
    ),
    ("clamp(odd, $)", &["-1, 1", "1, -1", "NaN, 1", "-Inf, +Inf"]),
    ("clamp_$", &["min(odd, 0)", "max(odd, 0)", "min(level, scalar(level{tank=\"a\"}))"]),
    ("round(temperature_celsius, $)", &["1", "0.1", "5", "-3", "0", "NaN"]),
    ("predict_linear(temperature_celsius[5m], $)", &["3600", "-60", "NaN"]),
    ("predict_linear($, 600)", &["odd[5m]", "level[8m] offset 1m", "level[10m:30s]"]),
    (
        "holt_winters($)",
        &[
            "temperature_celsius[5m], 0.5, 0.3", "odd[3m], 0.1, 0.9", "level[20s], 0.5, 0.5",
            "level[5m], 0, 0.5", "level[5m], 0.5, 1.5", "level[5m], NaN, 0.5",
        ],
    ),
    ("sort$", &["(level)", "_desc(level)", "(odd{kind!~\"zero|nan\"})", "_desc(odd{kind!~\"zero|nan\"})"]),
    (
        "label_replace(http_requests_total, $)",
        &[
            "\"host\", \"$1\", \"instance\", \"(.*):.*\"",
            "\"host\", \"x-${1}-$2\", \"instance\", \"(.)(.*)\"", "\"job\", \"\", \"code\", \"200\"",
            "\"new\", \"y\", \"nothing\", \"\"", "\"host\", \"$1\", \"instance\", \"z(.*)\"",
            "\"instance\", \"same\", \"instance\", \".*\"", "\"1bad\", \"\", \"job\", \"\"",
            "\"host\", \"\", \"job\", \"(\"", "\"__name__\", \"renamed_$1\", \"job\", \"(.*)\"",
        ],
    ),
    (
        "label_join(http_requests_total, $)",
        &[
            "\"all\", \"-\", \"job\", \"instance\", \"nothing\"", "\"all\", \"\"",
            "\"job\", \"\", \"instance\", \"code\"", "\"1bad\", \"\", \"job\"",
            "\"ok\", \"\", \"bad-name\"", "\"instance\", \"\", \"job\"",
        ],
    ),
    ("count_values($)", &["\"value\", level", "\"tank\", level", "\"bad-name\", level", "\"value\", odd"]),
    (
        "count_values $",
        &[
            "by (job) (\"v\", job_limit)", "without (job) (\"v\", job_limit)",
            "without (v) (\"v\", job_limit)",
        ],
    ),
    (
        "absent($)",
        &[
            "level", "nothing", "nothing{a=\"b\"}", "nothing{a=\"b\",c=~\"d\",e!=\"f\"}",
            "nothing{a=\"b\",a=\"c\"}", "sum(nothing{a=\"b\"})", "(nothing{a=\"b\"})", "level > 1e9",
            "level{tank=\"c\"}",
        ],
    ),
    (
        "absent_over_time($)",
        &[
            "level{tank=\"c\"}[5m]", "nothing{a=\"b\"}[1m]", "nothing{a=\"b\"}[5m:1m]",
            "http_requests_total{code=\"404\"}[1m]",
        ],
    ),
    (
        "timestamp($)",
        &[
            "temperature_celsius", "temperature_celsius offset 1m", "temperature_celsius @ 1600001000",
            "(level)", "level + 1", "timestamp(level)", "rpc_seconds", "vector(1)",
        ],
    ),
    (
        "level $",
        &[
            "", "offset 5m", "offset -3m", "@ 1600001234", "@ 1600001234.5", "@ start()", "@ end()",
            "@ start() offset 1m", "offset 1m @ end()", "@ -100", "offset 3h",
        ],
    ),
    ("sum_over_time(level[5m] $)", &["@ start()", "@ end()", "@ 1600001234 offset 30s"]),
    ("max_over_time(level[5m:1m] $)", &["@ start()", "@ end()", "@ 1600001234 offset 30s", "offset 10m"]),
    ("sum_over_time((level @ end())[5m:1m])$", &["", " + level", " * time()"]),
];

#[rustfmt::skip]
const SINGLE: &[&str] = &[
    // Selectors.
    "http_requests_total", "http_requests_total{job=\"api\"}", "http_requests_total{job!=\"api\"}",
    "http_requests_total{code=~\"2..\"}", "http_requests_total{code!~\"2..|4.*\"}", "{__name__=\"level\"}",
    "{__name__=~\"job_.*\",job=\"web\"}", "http_requests_total{nothing=\"\"}",
    "http_requests_total{job=~\"\"}", "http_requests_total{job=~\"a\"}",
    "{job=~\".+\",__name__!~\".*bucket|rpc.*|balance\"}", "odd", "latency_seconds_bucket{le=\"+Inf\"}",
    // Range vectors as they are.
    "level[2m]", "http_requests_total[1m] offset 10m", "temperature_celsius[1m] @ 1600001000",
    "level[3m:30s]", "sum(level)[3m:45s] offset 1m", "rpc_seconds[1m]", "balance[31s]",
    // Scalars and strings.
    "1", "-1", "+2.5", "1e3", "0x1F", "017", "Inf", "-Inf", "NaN", "\"text\"", "'it\\'s'", "`raw\\n`",
    "1 + 2 * 3 ^ 2", "-2 ^ 2", "2 ^ 3 ^ 2", "(1 + 2) * 3", "10 % 3", "-10 % 3", "1 / 0", "-1 / 0", "0 / 0",
    "pi()", "time()", "time() - 1600000000", "scalar(level{tank=\"a\"})", "scalar(level)",
    "scalar(nothing)", "vector(1)", "vector(time())", "vector(scalar(level))", "-level", "- -level",
    "-sum(level)", "+level", "-odd", "-(1 + level)", "-{__name__=~\"job_.*\"}", "1e-7", "1e21", "0.1 + 0.2",
    "vector(1e-7) * 3", "vector(1e21)", "vector(123456789012345680000)",
    // Vectors with vectors.
    "http_requests_total / on(job) group_left(team) job_owner{team!~\"green|blue\"}",
    "job_owner * on(job) group_left() job_limit", "job_owner{job!=\"db\"} * on(job) job_limit",
    "job_limit * on(job) job_owner", "http_requests_total / on(job) job_limit",
    "http_requests_total / on(job) group_left job_owner",
    "job_owner / on(job) group_right http_requests_total",
    "job_limit / ignoring(team) job_owner{job!=\"db\"}",
    "http_requests_total - ignoring(code) http_requests_total{code=\"200\"}",
    "http_requests_total - ignoring(code) group_left http_requests_total{code=\"200\"}",
    "sum by (job) (http_requests_total) / on(job) job_limit",
    "sum by (job) (rate(http_requests_total[2m])) > bool on(job) job_limit",
    "sum by (job) (http_requests_total) > on(job) job_limit", "job_limit == on(job) job_limit{job=\"api\"}",
    "level + on(tank) level offset 1m", "level and on() vector(1)", "level unless on() vector(1)",
    "vector(1) or level", "(level > 2) or (level < 0) or vector(0)", "level + on() group_left vector(1)",
    "level == on(tank) group_left(new) label_replace(level, \"new\", \"$1\", \"tank\", \"(.*)\")",
    "{__name__=~\"job_limit|level\"} * 2", "abs({__name__=~\"job_.*\",job=\"web\"})",
    "rate({__name__=~\"job_limit|job_owner\",job=\"web\"}[5m])",
    "rate({__name__=~\"http_requests_total|level\"}[5m])",
    "last_over_time({__name__=~\"job_limit|job_owner\"}[5m])",
    "label_replace({__name__=~\"job_.*\"}, \"x\", \"$1\", \"__name__\", \"(.*)\") * 1",
    // Aggregations of what is not there, and odd grouping.
    "sum(nothing)", "count(nothing)", "topk(3, nothing)", "quantile(0.5, nothing)", "sum by () (level)",
    "sum without () (level)", "sum by (nothing) (level)", "sum by (__name__) ({__name__=~\"job_.*\"})",
    "count by (__name__, job) ({job=\"web\"})", "sum(level) by (tank)",
    "topk(scalar(level{tank=\"b\"}), http_requests_total)", "topk(NaN, level)", "topk(1e30, level)",
    "quantile(scalar(level{tank=\"b\"}) / 12, temperature_celsius)",
    "count_values(\"v\", count by (job) (http_requests_total))",
    "avg by (job) (http_requests_total > 2000)", "stddev(odd{kind=\"constant\"})", "min(odd)", "max(odd)",
    "topk(2, odd{kind=~\"constant|ninf|tiny\"})", "bottomk(2, odd{kind=~\"constant|inf|tiny\"})",
    // Nested.
    "sum by (job) (rate(http_requests_total[5m])) / ignoring(job) group_left sum(rate(http_requests_total[5m]))",
    "max_over_time(rate(http_requests_total[1m])[10m:30s])",
    "avg_over_time(sum(rate(http_requests_total[1m]))[10m:])",
    "max_over_time(min_over_time(level[2m])[5m:30s])", "sum_over_time(vector(1)[5m:10s])",
    "count_over_time(time()[5m:7s])", "deriv(clock_seconds[5m])",
    "rate(latency_seconds_sum[5m]) / rate(latency_seconds_count[5m])",
    "histogram_quantile(0.5, bad_bucket)", "histogram_quantile(0.5, open_bucket)",
    "histogram_quantile(0.5, level)",
    "histogram_quantile(0.9, {__name__=~\"latency_seconds_bucket|open_bucket\"})",
    "histogram_quantile(scalar(level{tank=\"b\"}) / 12, latency_seconds_bucket)",
    "histogram_count(rate(rpc_seconds[5m]))", "histogram_sum(sum(rate(rpc_seconds[5m])))",
    "histogram_sum(rate(rpc_seconds[5m])) / histogram_count(rate(rpc_seconds[5m]))",
    "histogram_count(level)", "sum(rate(rpc_seconds[3m]))",
    "sum_over_time(histogram_count(rpc_seconds)[5m:1m])",
    "rpc_seconds + on() group_left rpc_seconds{job=\"db\"}", "hour(vector(1600000000))",
    "day_of_year(vector(1609459199))", "month(vector(-1))", "absent(absent(level))", "(level)",
    "((level))[2m:30s]", "sum((level))", "level # a comment", "  sum  (  level  )  ", "SUM(level)",
    "level AND level", "rate(level[1h])", "increase(http_requests_total[1d])",
    "rate(http_requests_total[15s])", "rate(http_requests_total[1m30s])", "level[1ms]",
    "count_over_time(level[1y])",
    // What is refused.
    "", " ", "(", "sum(", "level{", "level{a}", "level{a=1}", "level[", "level[]", "level[0m]",
    "level[5m][5m]", "{}", "{a=\"\"}", "{a=~\".*\"}", "level{__name__=\"x\"}", "1 +", "* 2", "level level",
    "nofunction(1)", "abs()", "abs(1)", "abs(level, level)", "rate(level)", "sum(level[5m])",
    "level[5m] + 1", "\"a\" + 1", "-\"a\"", "1 == 2", "level and 1", "1 or 1",
    "level + on(a) group_left(a) level", "level and on(a) group_left level", "1 + on(a) level",
    "level + bool level", "time(1)", "scalar(1)", "vector(level)", "level offset",
    "level offset 1m offset 2m", "level @", "level @ NaN", "sum(level) offset 1m", "topk(level, level)",
    "count_values(1, level)", "quantile(\"a\", level)", "level{a=~\"(\"}", "label_replace(level, \"a\")",
    "label_join(level)", "round(level, level)", "holt_winters(level[5m], 0.5)", "1[5m:1m]", "level[5m:0s]",
    "\"unterminated", "level{a=\"b\",,}", "level{a=\"b\",}", "sum by (a b) (level)", "sum(level) by",
    "level!", "2e", "0xZ", "{,}", "histogram_quantile(level, level)", "a:b:c", "avg(nothing:at:all)",
    "level @ start", "level[5m] @ end() offset",
];
