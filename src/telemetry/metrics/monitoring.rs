//! Tests that the alerts, the dashboard and the runbook use names that exist.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{field, kind::Kind},
    CATALOGUE, Family, Identity, Instrument, InstrumentKind, Registry,
};

const RULES: &str = include_str!("../../../docs/monitoring/buttress.rules.yml");
const RULE_TESTS: &str = include_str!("../../../docs/monitoring/buttress.test.yml");
const DASHBOARD: &str = include_str!("../../../docs/monitoring/dashboard.json");
const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

/// The states of a circuit and of an endpoint, which this room does not know otherwise.
const STATES: [(&str, &[&str]); 2] = [
    ("buttress.circuit_breaker", &["closed", "open", "half_open", "forced_open", "disabled"]),
    ("buttress.endpoints", &["usable", "ejected", "check_failed", "draining"]),
];

/// The labels that Prometheus adds.
const ADDED: [&str; 3] = ["job", "instance", "le"];

/// Returns the name that OpenTelemetry's translation for Prometheus makes of a dotted one.
fn underscored(name: &str) -> String {
    name.replace('.', "_")
}

/// Returns each metric in Prometheus with its instrument.
fn metrics() -> BTreeMap<String, &'static Instrument> {
    let mut metrics = BTreeMap::new();
    for &instrument in CATALOGUE {
        let parts: &[&str] = match instrument.kind {
            InstrumentKind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        metrics.extend(parts.iter().map(|part| (instrument.prometheus_name() + part, instrument)));
    }
    metrics
}

/// Returns the labels of all instruments.
fn labels() -> BTreeSet<String> {
    CATALOGUE.iter().flat_map(|it| it.attributes).map(|name| underscored(name)).collect()
}

/// Returns the series that layers of all kinds have before their first call.
fn series() -> Vec<Family> {
    let kinds = [
        Kind::Call,
        Kind::Timeout,
        Kind::Retry,
        Kind::Fallback,
        Kind::Cache,
        Kind::Endpoints,
        Kind::Bulkhead,
        Kind::CircuitBreaker,
        Kind::Idempotency,
        Kind::Chaos,
        Kind::Client,
        Kind::Server,
        Kind::Body,
    ];
    let registry = Registry::new();
    let identity = |kind| Identity { stack: None, layer: "orders".into(), kind };
    let meters = kinds.map(|kind| registry.meter(identity(kind)));
    let families = registry.gather();
    drop(meters);
    families
}

/// Returns `true` if a label of an instrument can have this value.
fn has_value(series: &[Family], instrument: &Instrument, label: &str, value: &str) -> bool {
    let families = series.iter().filter(|family| std::ptr::eq(family.instrument, instrument));
    let mut all = families.flat_map(|family| &family.series).flat_map(|it| &it.attributes);
    let mut states = STATES.iter().filter(|(part, _)| instrument.name.starts_with(part));
    all.any(|(name, known)| underscored(name) == label && known == value)
        || (label == "buttress_state" && states.any(|(_, states)| states.contains(&value)))
}

/// Yields each word that may be a name, with the text after it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = &rest[rest.find(is_part)?..];
        let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        let word;
        (word, rest) = rest.split_at(end);
        Some((word, rest))
    })
}

/// Yields the label, and the values of each matcher of a selector in braces.
fn matchers(selector: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let mut parts = selector.split('"');
    std::iter::from_fn(move || {
        let label = parts
            .next()?
            .trim_matches(|letter: char| ",=!~".contains(letter) || letter.is_whitespace());
        Some((label, parts.next()?.split('|').collect()))
    })
}

/// Returns what a query names that is not in the catalogue.
///
/// Names of series in tests of rules have the names of stacks and layers as values.
fn unknown_names(query: &str) -> Vec<String> {
    let (metrics, labels, series) = (metrics(), labels(), series());
    let mut unknown = Vec::new();
    for (word, rest) in words(query) {
        let Some(instrument) = metrics.get(word) else {
            if word.starts_with("buttress_") && !labels.contains(word) || word.contains(":buttress")
            {
                unknown.push(word.to_owned());
            }
            continue;
        };
        let Some(selector) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()) else {
            continue;
        };
        for (label, values) in matchers(selector) {
            let own = instrument.attributes.iter().any(|name| underscored(name) == label);
            if !own && !ADDED.contains(&label) {
                unknown.push(format!("{word} has no label {label}"));
            }
            let fixed = own && !["buttress_stack", "buttress_layer"].contains(&label);
            for value in values {
                if fixed && !has_value(&series, instrument, label, value) && value != ".*" {
                    unknown.push(format!("{word} has no {label} {value}"));
                }
            }
        }
    }
    unknown.extend(grouping_labels(query).filter_map(|label| {
        let mut used = words(query).filter_map(|(word, _)| metrics.get(word));
        let all = used.all(|it| it.attributes.iter().any(|name| underscored(name) == label));
        (!all && !ADDED.contains(&label)).then(|| format!("not all metrics have the label {label}"))
    }));
    unknown
}

/// Yields each label in `by (..)` and `on (..)`.
fn grouping_labels(query: &str) -> impl Iterator<Item = &str> {
    let groups = ["by (", "on ("].into_iter().flat_map(|word| query.split(word).skip(1));
    groups.filter_map(|rest| rest.split(')').next()).flat_map(|list| list.split(", "))
}

/// A rule of Prometheus.
struct Rule {
    /// The name of the alert, or of the series that is recorded.
    name: String,
    is_alert: bool,
    query: String,
    text: &'static str,
}

/// Returns the rules. In their queries, the names of recorded series are replaced by their queries.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for text in RULES.split("\n      - ").skip(1) {
        let (head, body) = text.split_once("\n        expr: ").unwrap();
        let (kind, name) = head.split_once(": ").unwrap();
        let query = match body.strip_prefix("|\n") {
            Some(block) => {
                block.lines().take_while(|line| line.starts_with("          ")).collect()
            }
            None => body.lines().next().unwrap().to_owned(),
        };
        // The longest name first, because one name may begin like another.
        let mut recorded: Vec<_> = rules.iter().filter(|rule| !rule.is_alert).collect();
        recorded.sort_by_key(|rule| std::cmp::Reverse(rule.name.len()));
        let query = recorded
            .iter()
            .fold(query, |query, rule| query.replace(&rule.name, &format!("({})", rule.query)));
        rules.push(Rule { name: name.to_owned(), is_alert: kind == "alert", query, text });
    }
    rules
}

/// Returns the value of an annotation or a label of an alert.
fn value_of<'a>(rule: &'a Rule, name: &str) -> Option<&'a str> {
    let (_, rest) = rule.text.split_once(&format!("{name}: "))?;
    // Up to the next key, which is less indented than the lines of a folded value.
    let end = rest.find("\n          runbook_url").unwrap_or(rest.len());
    Some(if name == "description" { &rest[..end] } else { rest.lines().next().unwrap() })
}

/// Yields the heading and the text of each entry in a section of the runbook.
fn entries(section: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, rest) = RUNBOOK.split_once(&format!("\n## {section}\n")).unwrap();
    let text = rest.split("\n## ").next().unwrap().split("\n\n[`docs").next().unwrap();
    text.split("\n### ").skip(1).map(|entry| entry.split_once("\n\n").unwrap())
}

#[test]
fn alerts_use_only_names_of_the_catalogue() {
    let rules = rules();
    assert!(rules.len() > 20);
    for rule in rules {
        assert_eq!(unknown_names(&rule.query), [""; 0], "{}", rule.name);
    }
}

#[test]
fn series_in_the_tests_of_alerts_are_in_the_catalogue() {
    let lines = RULE_TESTS.lines().filter(|line| line.contains("series: "));
    let unknown: Vec<_> = lines.flat_map(unknown_names).collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn the_dashboard_uses_only_names_of_the_catalogue() {
    let mut queries = 0;
    let mut lines = DASHBOARD.lines().map(|line| line.trim().replace("\\\"", "\""));
    while let Some(line) = lines.next() {
        if line.starts_with("\"expr\": ") {
            queries += 1;
            assert_eq!(unknown_names(&line), [""; 0], "{line}");
            let legend = lines.next().unwrap();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(grouping_labels(&line).any(|by| by == label), "{legend} of {line}");
            }
        } else if line.contains("label_values") {
            assert_eq!(unknown_names(&line), [""; 0], "{line}");
        }
    }
    assert!(queries > 15);
}

#[test]
fn the_runbook_uses_only_names_of_the_catalogue() {
    let instruments = CATALOGUE.iter().map(|it| it.name);
    let attributes = CATALOGUE.iter().flat_map(|it| it.attributes).copied();
    let known: BTreeSet<_> = instruments.chain(attributes).collect();
    let families: BTreeSet<_> = CATALOGUE.iter().map(|it| it.prometheus_name()).collect();
    for (number, code) in RUNBOOK.split('`').enumerate() {
        if number % 2 == 1 && code.starts_with("buttress.") && !code.ends_with("yml") {
            let of_events = [field::CONTROL, field::ACTOR].contains(&code);
            assert!(known.contains(code) || of_events, "{code}");
        }
        if number % 2 == 1 && code.starts_with("buttress_") {
            assert!(families.contains(code), "{code}");
        }
    }
}

#[test]
fn each_alert_has_all_that_its_reader_needs() {
    let labels = labels();
    for rule in rules().iter().filter(|rule| rule.is_alert) {
        let name = &rule.name;
        let severity = value_of(rule, "severity").unwrap();
        assert!(["page}", "ticket}"].contains(&severity), "{name}: {severity}");
        assert!(value_of(rule, "summary").is_some(), "{name}");
        let description = value_of(rule, "description").unwrap();
        let has_stack = rule.query.contains("by (job, buttress_stack");
        assert_eq!(description.contains("$labels.buttress_stack"), has_stack, "{name}");
        for (word, _) in rule.text.split("$labels.").skip(1).filter_map(|rest| words(rest).next()) {
            assert!(labels.contains(word) || ADDED.contains(&word), "{name}: {word}");
            assert!(grouping_labels(&rule.query).any(|by| by == word), "{name}: {word}");
        }
        let page = "https://docs.rs/buttress/latest/buttress/guide/runbook/#";
        let url = format!("{page}{}", name.to_lowercase());
        assert_eq!(value_of(rule, "runbook_url"), Some(&*url), "{name}");
    }
}

#[test]
fn each_alert_is_tested_where_it_fires_and_where_it_does_not() {
    for rule in rules().iter().filter(|rule| rule.is_alert) {
        let name = format!("alertname: {}", rule.name);
        let cases = RULE_TESTS.split(&name).skip(1);
        let (quiet, fires): (Vec<_>, Vec<_>) =
            cases.partition(|case| case.starts_with(", exp_alerts: []"));
        assert!(!quiet.is_empty() && !fires.is_empty(), "{}", rule.name);
        assert!(fires.iter().all(|case| case.contains("- exp_labels: {severity")));
    }
}

#[test]
fn each_alert_has_an_entry_in_the_runbook() {
    let headings: Vec<_> = entries("Alerts").map(|(heading, _)| heading).collect();
    let alerts = rules().into_iter().filter(|rule| rule.is_alert);
    assert_eq!(headings, alerts.map(|rule| rule.name).collect::<Vec<_>>());
}

#[test]
fn each_entry_of_the_runbook_has_the_same_four_lines() {
    let mut count = 0;
    for (heading, text) in entries("Alerts").chain(entries("Rejections")) {
        count += 1;
        let items: Vec<_> = text.trim_end().split("- **").skip(1).collect();
        let marks = ["Means:** ", "Look first:** ", "Turn:** ", "Do not:** "];
        assert_eq!(items.len(), marks.len(), "{heading}");
        for (item, mark) in items.iter().zip(marks) {
            assert!(item.starts_with(mark) && item.trim_end().ends_with('.'), "{heading}: {item}");
        }
        // A link, so that rustdoc checks that it exists.
        let turn = items[2];
        for (number, before) in turn.split('`').enumerate().filter(|(number, _)| number % 2 == 0) {
            let code = turn.split('`').nth(number + 1).unwrap_or_default();
            let is_name = code.is_empty() || code.starts_with("buttress.");
            assert!(is_name || before.ends_with('['), "{heading}: {code} is no link");
        }
    }
    assert!(count > 30);
}

#[test]
fn a_wrong_name_is_found() {
    for (query, what) in [
        ("rate(buttress_calls_total[5m])", "buttress_calls_total"),
        ("buttress_call_duration_seconds", "buttress_call_duration_seconds"),
        ("buttress_retry_ended", "buttress_retry_ended"),
        ("buttress_retry_budget_ratio_ratio", "buttress_retry_budget_ratio_ratio"),
        ("stack:buttress_calls:rate9m", "stack:buttress_calls:rate9m"),
        (r#"buttress_call_active{layer="a"}"#, "buttress_call_active has no label layer"),
        (
            r#"buttress_call_active{buttress_layer="a"}"#,
            "buttress_call_active has no label buttress_layer",
        ),
        (
            r#"buttress_retry_calls_total{job="a",buttress_outcome=~"success|failed"}"#,
            "buttress_retry_calls_total has no buttress_outcome failed",
        ),
        (
            r#"buttress_circuit_breaker_state{buttress_state="broken"}"#,
            "buttress_circuit_breaker_state has no buttress_state broken",
        ),
        (
            r#"buttress_endpoints{buttress_state="open"}"#,
            "buttress_endpoints has no buttress_state open",
        ),
        (
            "sum by (job, buttress_layer) (buttress_call_active)",
            "not all metrics have the label buttress_layer",
        ),
    ] {
        assert_eq!(unknown_names(query), [what], "{query}");
    }
    let right =
        r#"max by (le) (buttress_attempt_duration_seconds_bucket{buttress_outcome="failure"})"#;
    assert_eq!(unknown_names(right), [""; 0]);
}
