//! The host's packet filter: whether what machines send reaches the server.
//!
//! Rules are not played through. A chain that drops what it does not name, and names none of our
//! ports, is told.

use super::{Check, Dhcp, Level, Subject};
use serde_json::Value;
use std::time::Duration;
use tokio::process::Command;

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A port that machines must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed {
    protocol: &'static str,
    port: u16,
}

fn needed(subject: &Subject) -> Vec<Needed> {
    let mut ports = vec![];
    let udp = |port| Needed {
        protocol: "udp",
        port,
    };
    if subject
        .interfaces
        .iter()
        .any(|wanted| wanted.dhcp != Dhcp::Off)
    {
        ports.extend([udp(67), udp(4011)]);
    }
    if subject.tftp {
        ports.push(udp(69));
    }
    if !subject.device_listen.ip().is_loopback() {
        ports.push(Needed {
            protocol: "tcp",
            port: subject.device_listen.port(),
        });
    }
    ports
}

pub(super) async fn check(subject: &Subject) -> Vec<Check> {
    if subject.interfaces.is_empty() {
        return vec![];
    }
    let mut command = Command::new("nft");
    command
        .args(["--json", "list", "ruleset"])
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    let told = |text: String| vec![Check::new(Level::Note, "firewall", "", text)];
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => {
            return told("`nft list ruleset` did not end: the firewall was not checked".into());
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return told("the firewall was not checked: `nft` is not installed".into());
        }
        Ok(Err(error)) => return told(format!("the firewall was not checked: nft: {error}")),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        return told(format!(
            "the firewall was not checked, which only root may: {said}"
        ));
    }
    match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(ruleset) => judge(subject, &ruleset),
        Err(_) => told("the firewall was not checked: `nft` gave no JSON".into()),
    }
}

/// What the chains that see incoming packets do.
fn judge(subject: &Subject, ruleset: &Value) -> Vec<Check> {
    let items: Vec<&Value> = ruleset
        .get("nftables")
        .and_then(Value::as_array)
        .map(|items| items.iter().collect())
        .unwrap_or_default();
    let mut checks = vec![];
    for chain in items.iter().filter_map(|item| item.get("chain")) {
        let word = |key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default();
        if word("hook") != "input" || !matches!(word("family"), "ip" | "inet") {
            continue;
        }
        let rules: Vec<&Value> = items
            .iter()
            .filter_map(|item| item.get("rule"))
            .filter(|rule| {
                ["family", "table"]
                    .iter()
                    .all(|key| rule.get(*key) == chain.get(*key))
            })
            .collect();
        if !drops_the_rest(chain, &rules) {
            continue;
        }
        let open = rules.iter().any(|rule| lets_interface_in(subject, rule));
        let missing: Vec<String> = needed(subject)
            .iter()
            .filter(|needed| !open && !rules.iter().any(|rule| names_port(rule, needed)))
            .map(|needed| format!("{} {}", needed.protocol, needed.port))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let place = format!("{} {} {}", word("family"), word("table"), word("name"));
        // Rules of iptables that nft cannot show may name them.
        let opaque = rules.iter().any(|rule| has_key(rule, "xt"));
        let level = if opaque {
            Level::Warning
        } else {
            Level::Problem
        };
        checks.push(
            Check::new(
                level,
                "firewall",
                &place,
                format!(
                    "the firewall chain {place} drops what it does not name, and names none of: {}",
                    missing.join(", ")
                ),
            )
            .remedy(format!(
                "let them in, for example: {}",
                missing
                    .iter()
                    .map(|port| {
                        let (protocol, port) = port.split_once(' ').unwrap_or_default();
                        format!("`nft insert rule {place} {protocol} dport {port} accept`")
                    })
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        );
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            "firewall",
            "",
            "no firewall chain of this host keeps machines out",
        ));
    }
    checks
}

/// Whether a chain drops what none of its rules lets in.
fn drops_the_rest(chain: &Value, rules: &[&Value]) -> bool {
    if chain.get("policy").and_then(Value::as_str) == Some("drop") {
        return true;
    }
    // A last rule that drops or rejects without a condition does the same.
    rules
        .iter()
        .rfind(|rule| rule.get("chain") == chain.get("name"))
        .and_then(|rule| rule.get("expr")?.as_array())
        .is_some_and(|expressions| {
            let verdict = |e: &Value| e.get("drop").is_some() || e.get("reject").is_some();
            expressions.iter().any(verdict)
                && !expressions
                    .iter()
                    .any(|e| e.get("match").is_some() || e.get("xt").is_some())
        })
}

fn accepts(rule: &Value) -> bool {
    has_key(rule, "accept") || has_key(rule, "jump") || has_key(rule, "goto")
}

/// Whether a rule lets in all that comes from a served interface.
fn lets_interface_in(subject: &Subject, rule: &Value) -> bool {
    let Some(expressions) = rule.get("expr").and_then(Value::as_array) else {
        return false;
    };
    let matches: Vec<&Value> = expressions.iter().filter_map(|e| e.get("match")).collect();
    let [only] = matches.as_slice() else {
        return matches.is_empty()
            && !expressions.iter().any(|e| e.get("xt").is_some())
            && expressions.iter().any(|e| e.get("accept").is_some());
    };
    let by_interface = only
        .pointer("/left/meta/key")
        .and_then(Value::as_str)
        .is_some_and(|key| key.starts_with("iif"));
    by_interface
        && accepts(rule)
        && only.get("right").is_some_and(|right| {
            subject
                .interfaces
                .iter()
                .all(|wanted| mentions(right, &Value::from(wanted.name.as_str())))
        })
}

/// Whether a rule accepts this port.
fn names_port(rule: &Value, needed: &Needed) -> bool {
    let Some(expressions) = rule.get("expr").and_then(Value::as_array) else {
        return false;
    };
    accepts(rule)
        && expressions
            .iter()
            .filter_map(|e| e.get("match"))
            .any(|found| {
                let payload = found.pointer("/left/payload");
                let field = payload.and_then(|p| p.get("field")).and_then(Value::as_str);
                let protocol = payload
                    .and_then(|p| p.get("protocol"))
                    .and_then(Value::as_str);
                let fits = field == Some("dport")
                    && protocol.is_some_and(|p| p == needed.protocol || p == "th");
                fits && found
                    .get("right")
                    .is_some_and(|right| mentions(right, &Value::from(needed.port)))
            })
}

/// Whether a value is this one, or a set or a range with it.
fn mentions(value: &Value, wanted: &Value) -> bool {
    if value == wanted {
        return true;
    }
    if let Some([low, high]) = value
        .get("range")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        let within = |v: &Value| Some((low.as_u64()?, v.as_u64()?, high.as_u64()?));
        return within(wanted).is_some_and(|(low, v, high)| (low..=high).contains(&v));
    }
    value
        .get("set")
        .unwrap_or(value)
        .as_array()
        .is_some_and(|set| set.iter().any(|one| mentions(one, wanted)))
}

/// Whether an object somewhere in a rule has this key. Rules are shallow.
fn has_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(key) || map.values().any(|v| has_key(v, key)),
        Value::Array(list) => list.iter().any(|v| has_key(v, key)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Wanted;
    use serde_json::json;

    fn subject() -> Subject {
        Subject {
            interfaces: vec![Wanted {
                name: "eth0".into(),
                dhcp: Dhcp::Full,
                has_pool: true,
            }],
            device_listen: ([0, 0, 0, 0], 8480).into(),
            operator_listen: ([127, 0, 0, 1], 8481).into(),
            tftp: true,
            state_dir: "/x".into(),
            loaders: vec![],
            probe: false,
        }
    }

    fn found(policy: &str, rules: &[Value]) -> Vec<Check> {
        let chain = json!({"chain": {"family": "inet", "table": "filter", "name": "input",
            "type": "filter", "hook": "input", "prio": 0, "policy": policy}});
        let rules = rules.iter().map(|expr| {
            json!({"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": expr}})
        });
        let items: Vec<Value> = std::iter::once(chain).chain(rules).collect();
        judge(&subject(), &json!({ "nftables": items }))
    }

    fn port(protocol: &str, right: Value) -> Value {
        json!([{"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}},
            "right": right}}, {"accept": null}])
    }

    #[test]
    fn a_chain_that_drops_and_names_no_port_of_ours_is_told() {
        assert_eq!(found("accept", &[])[0].level, Level::Ok);
        let checks = found("drop", &[]);
        assert_eq!(checks[0].level, Level::Problem);
        assert!(
            checks[0]
                .text
                .ends_with("udp 67, udp 4011, udp 69, tcp 8480"),
            "{}",
            checks[0].text
        );
        let remedy = checks[0].remedy.as_deref().unwrap();
        assert!(
            remedy.contains("nft insert rule inet filter input udp dport 67 accept"),
            "{remedy}"
        );
        // Some are named: as one, in a set, in a range.
        let some = [
            port("udp", json!({"set": [67, {"range": [60, 70]}]})),
            port("tcp", json!(8480)),
        ];
        assert!(found("drop", &some)[0].text.ends_with("none of: udp 4011"));
        let all = [some[0].clone(), some[1].clone(), port("udp", json!(4011))];
        assert_eq!(found("drop", &all)[0].level, Level::Ok);
        // A last rule that rejects.
        let rejects =
            json!([{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx"}}]);
        assert_eq!(found("accept", &[rejects])[0].level, Level::Problem);
    }

    #[test]
    fn an_interface_that_is_let_in_as_a_whole_is_fine() {
        let interface = |name: &str| {
            json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}},
                {"accept": null}])
        };
        assert_eq!(found("drop", &[interface("eth0")])[0].level, Level::Ok);
        assert_eq!(found("drop", &[interface("lo")])[0].level, Level::Problem);
        let opaque = json!([{"xt": null}, {"counter": null}, {"accept": null}]);
        assert_eq!(found("drop", &[opaque])[0].level, Level::Warning);
    }
}
