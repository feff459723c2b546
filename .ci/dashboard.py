#!/usr/bin/env python3
"""Makes the Grafana dashboard from a table of panels.

    python3 .ci/dashboard.py                 # writes docs/monitoring/dashboard.json
    python3 .ci/dashboard.py --check         # compares it
    python3 .ci/dashboard.py --rules FILE    # writes its queries as rules, for promtool
"""

import argparse
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = os.path.join(ROOT, "docs", "monitoring", "dashboard.json")

# The selector of the variables. The layers outside of a stack match "All".
OF = 'job=~"$job",buttress_stack=~"$stack"'
RATE = "$__rate_interval"


def count(metric, by="", more=""):
    """Returns the rate of a counter."""
    selector = ",".join(filter(None, [OF, more]))
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate({metric}{{{selector}}}[{RATE}]))"


def share(metric, failed, all_of, by):
    """Returns the share of some events among others."""
    return f"{count(metric, by, failed)} / {count(metric, by, all_of)}"


def quantile(q, metric, by="", more=""):
    """Returns a quantile of a histogram."""
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {count(metric + '_bucket', by, more)})"


CALLS = "buttress_call_duration_seconds"
ATTEMPTS = "buttress_attempt_duration_seconds"
RETRY_CALLS = "buttress_retry_calls_total"
STATE = "buttress_circuit_breaker_state"
STACK, LAYER = "buttress_stack", "buttress_layer"
FAILED = 'buttress_outcome=~"failure|rejected"'
ENDED = 'buttress_outcome!="cancelled"'
RESPONDED = 'buttress_outcome=~"success|failure"'
RETRIED = 'buttress_retried="true"'

# The states of a circuit as one number, with their texts and colours.
STATES = [
    ("closed", "green"), ("half_open", "yellow"), ("open", "red"),
    ("forced_open", "purple"), ("disabled", "blue"),
]
WORST = " or ".join(
    f'{number} * {STATE}{{{OF},buttress_state="{state}"}}'
    for number, (state, _) in enumerate(STATES)
)

# The rows. Each has panels with a title, a type, a unit, a description, and pairs of a legend and a
# query.
ROWS = [
    ("Is it us or them?", [
        ("Calls by outcome", "timeseries", "reqps", "The results that callers got.", [
            ("{{buttress_outcome}}", count(f"{CALLS}_count", "buttress_outcome")),
        ]),
        ("Failed, of calls and of attempts", "timeseries", "percentunit",
         "If attempts fail, it is the dependency. If only calls fail, a layer rejects them: see "
         "Rejections. Attempts that a layer rejects are left out.", [
             ("calls of {{buttress_stack}}", share(f"{CALLS}_count", FAILED, ENDED, STACK)),
             ("attempts of {{buttress_stack}}",
              share(f"{ATTEMPTS}_count", 'buttress_outcome="failure"', RESPONDED, STACK)),
         ]),
        ("Duration of calls and of attempts", "timeseries", "s",
         "A call is what callers wait for, whatever the result. An attempt is the time of the "
         "dependency, and of our queue if there is one. Attempts that a layer rejects are left "
         "out.", [
             ("call p99", quantile(0.99, CALLS)),
             ("attempt p99", quantile(0.99, ATTEMPTS, more=RESPONDED)),
             ("call p50", quantile(0.5, CALLS)),
             ("attempt p50", quantile(0.5, ATTEMPTS, more=RESPONDED)),
         ]),
        ("Causes of failed calls", "timeseries", "reqps",
         "A status or `connect` is theirs. A kind of rejection is in the runbook.", [
             ("{{error_type}}", count("buttress_call_errors_total", "error_type")),
         ]),
        ("Circuits", "state-timeline", "short", "The worst state over all instances.", [
            ("{{buttress_layer}}", f"max by ({LAYER}) ({WORST})"),
        ]),
        ("Calls in flight", "timeseries", "short", "They have begun and not ended.", [
            ("{{buttress_stack}}", f"sum by ({STACK}) (buttress_call_active{{{OF}}})"),
        ]),
    ]),
    ("Does retrying help?", [
        ("Retried calls", "timeseries", "reqps",
         "A saved call succeeded after a retry. A lost one failed anyway.", [
             ("saved", count(RETRY_CALLS, more=RETRIED + ',buttress_outcome="success"')),
             ("lost", count(RETRY_CALLS, more=RETRIED + ',buttress_outcome="failure"')),
         ]),
        ("Resends per call", "timeseries", "percentunit",
         "The additional load on the dependency.", [
             ("{{buttress_stack}}",
              count("buttress_attempt_resends_total", STACK)
              + " / " + count(f"{CALLS}_count", STACK)),
         ]),
        ("Why calls were not retried further", "timeseries", "reqps",
         "Failed calls, by what ended their retries.", [
             ("{{buttress_reason}}", count("buttress_retry_ended_total", "buttress_reason")),
         ]),
        ("Retry budget left", "timeseries", "percentunit", "The lowest of all instances.", [
            ("{{buttress_layer}}", f"min by ({LAYER}) (buttress_retry_budget_ratio{{{OF}}})"),
        ]),
        ("Pauses before retries", "timeseries", "s", "The delay that retrying adds to a call.", [
            ("p99", quantile(0.99, "buttress_retry_delay_seconds")),
            ("p50", quantile(0.5, "buttress_retry_delay_seconds")),
        ]),
    ]),
    ("What is full?", [
        ("Bulkheads: slots taken", "timeseries", "percentunit", "The fullest instance.", [
            ("{{buttress_layer}}", f"max by ({LAYER}) "
             f"(buttress_bulkhead_active{{{OF}}} / buttress_bulkhead_limit{{{OF}}})"),
        ]),
        ("Bulkheads: calls in the queue", "timeseries", "short", "Over all instances.", [
            ("{{buttress_layer}}", f"sum by ({LAYER}) (buttress_bulkhead_queued{{{OF}}})"),
        ]),
        ("Bulkheads: time in the queue", "timeseries", "s", "Only of calls that waited.", [
            ("p99 {{buttress_layer}}",
             quantile(0.99, "buttress_bulkhead_queue_duration_seconds", LAYER)),
        ]),
        ("Rejections", "timeseries", "reqps", "By layer and kind. Each kind is in the runbook.", [
            ("{{buttress_layer}}: {{error_type}}",
             count("buttress_rejections_total", f"{LAYER}, error_type")),
        ]),
        ("Bodies too large to replay", "timeseries", "reqps",
         "These requests are not retried.", [
             ("{{buttress_layer}}", count("buttress_http_replay_overflow_total", LAYER)),
         ]),
        ("Idempotency: runs in progress", "timeseries", "short", "Over all instances.", [
            ("{{buttress_layer}}", f"sum by ({LAYER}) (buttress_idempotency_active{{{OF}}})"),
        ]),
    ]),
    ("What is degraded?", [
        ("Degraded calls", "timeseries", "percentunit",
         "They got a fallback or a stale response.", [
             ("{{buttress_stack}}",
              share(f"{CALLS}_count", 'buttress_outcome="degraded"', ENDED, STACK)),
         ]),
        ("Fallbacks", "timeseries", "reqps",
         "`off` is a response while the dependency was switched off.", [
             ("{{buttress_layer}}: {{buttress_result}}",
              count("buttress_fallback_calls_total", f"{LAYER}, buttress_result")),
         ]),
        ("Cache: calls by result", "timeseries", "reqps",
         "Only `miss` and `bypassed` call the dependency.", [
             ("{{buttress_layer}}: {{buttress_result}}",
              count("buttress_cache_requests_total", f"{LAYER}, buttress_result")),
         ]),
        ("Cache: bytes", "timeseries", "bytes", "Over all instances.", [
            ("{{buttress_layer}}", f"sum by ({LAYER}) (buttress_cache_bytes{{{OF}}})"),
        ]),
        ("Endpoints by state", "timeseries", "short", "As all instances see them.", [
            ("{{buttress_layer}}: {{buttress_state}}",
             f"sum by ({LAYER}, buttress_state) (buttress_endpoints{{{OF}}})"),
        ]),
        ("Endpoints: calls in flight", "timeseries", "short", "Over all instances.", [
            ("{{buttress_layer}}", f"sum by ({LAYER}) (buttress_endpoints_active{{{OF}}})"),
        ]),
    ]),
]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8


def variable(name, label):
    """Returns a variable with all values of a label of the calls."""
    return {
        "name": name, "type": "query", "datasource": DATASOURCE,
        "query": {"query": f"label_values({CALLS}_count, {label})", "refId": name},
        "current": {"text": "All", "value": "$__all"},
        "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2,
    }


def panel(title, kind, unit, description, queries, x, y):
    """Returns a panel."""
    defaults = {"unit": unit, "min": 0}
    options = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "state-timeline":
        states = {
            str(number): {"index": number, "text": state.replace("_", " "), "color": colour}
            for number, (state, colour) in enumerate(STATES)
        }
        mappings = [{"type": "value", "options": states}]
        defaults = {"mappings": mappings, "custom": {"fillOpacity": 70}}
        options |= {"showValue": "auto", "mergeValues": True}
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(queries)
        ],
    }


def dashboard():
    """Returns the dashboard."""
    panels, y = [], 0
    for row, table in ROWS:
        panels.append({
            "type": "row", "title": row, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        })
        y += 1
        for number, entry in enumerate(table):
            line, column = divmod(number, 24 // WIDTH)
            panels.append(panel(*entry, x=WIDTH * column, y=y + HEIGHT * line))
        y += HEIGHT * -(-len(table) // (24 // WIDTH))
    for number, each in enumerate(panels, 1):
        each["id"] = number
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    variables = [source, variable("job", "job"), variable("stack", STACK)]
    return {
        "title": "buttress", "uid": "buttress", "tags": ["buttress"], "schemaVersion": 39,
        "templating": {"list": variables}, "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s", "graphTooltip": 1, "panels": panels,
    }


def rules():
    """Returns the queries as recording rules, with values for the variables of Grafana."""
    queries = [query for _, table in ROWS for *_, queries in table for _, query in queries]
    values = [(RATE, "1m"), ("$job", ".*"), ("$stack", ".*")]
    for name, value in values:
        queries = [query.replace(name, value) for query in queries]
    left = [query for query in queries if "$" in query]
    assert not left, left
    records = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    return {"groups": [{"name": "dashboard", "rules": records}]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rules", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.rules:
        with open(arguments.rules, "w", encoding="utf-8") as file:
            json.dump(rules(), file, indent=1)
        return 0
    made = json.dumps(dashboard(), indent=1) + "\n"
    if arguments.check:
        with open(PATH, encoding="utf-8") as file:
            if file.read() != made:
                print("docs/monitoring/dashboard.json is old: run python3 .ci/dashboard.py")
                return 1
        print(f"{sum(len(table) for _, table in ROWS)} panels as in the table")
        return 0
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
