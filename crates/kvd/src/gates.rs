//! Feature gates (`server/features/etcd_features.go`): parsed and checked as etcd does.

use std::collections::BTreeMap;

use crate::flags::value;

/// A gate's name, its default and its stage.
const KNOWN: &[(&str, bool, &str)] = &[
    ("CompactHashCheck", false, "ALPHA"),
    ("FastLeaseKeepAlive", true, "BETA"),
    ("InitialCorruptCheck", false, "ALPHA"),
    ("LeaseCheckpoint", false, "ALPHA"),
    ("LeaseCheckpointPersist", false, "ALPHA"),
    ("PriorityRequest", false, "ALPHA"),
    ("SetMemberLocalAddr", false, "ALPHA"),
    ("StopGRPCServiceOnDefrag", false, "ALPHA"),
    ("TxnModeWriteWithSharedBuffer", true, "BETA"),
];

/// Those that have an effect in kvd.
const BUILT: &[&str] = &["CompactHashCheck", "InitialCorruptCheck"];

/// Which gates were set, and to what.
///
/// Few gates have an effect: [`FeatureGates::changed`] lists the others that a user set otherwise
/// than by default, so that the start can say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    set: BTreeMap<&'static str, bool>,
}

impl FeatureGates {
    /// Reads `A=true,B=false` on top of what is set. The error is etcd's text.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let Some((name, word)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {pair}"));
            };
            let (name, word) = (name.trim(), word.trim());
            let on = value::bool(word).ok_or_else(|| {
                format!(
                    "invalid value of {name}={word}, err: \
                     strconv.ParseBool: parsing {word:?}: invalid syntax"
                )
            })?;
            self.set_one(name, on)?;
        }
        Ok(())
    }

    fn set_one(&mut self, name: &str, on: bool) -> Result<(), String> {
        let stage = match name {
            "AllAlpha" => "ALPHA",
            "AllBeta" => "BETA",
            _ => {
                let gate = KNOWN.iter().find(|gate| gate.0 == name);
                let gate = gate.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
                self.set.insert(gate.0, on);
                return Ok(());
            }
        };
        for gate in KNOWN.iter().filter(|gate| gate.2 == stage) {
            self.set.entry(gate.0).or_insert(on);
        }
        Ok(())
    }

    /// Whether the gate `name` is on; a name that does not exist is off.
    pub fn is_enabled(&self, name: &str) -> bool {
        match self.set.get(name) {
            Some(on) => *on,
            None => KNOWN.iter().any(|gate| gate.0 == name && gate.1),
        }
    }

    /// Every gate with its stage and whether it is on, for the metrics.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> + '_ {
        let stages = [("AllAlpha", "ALPHA"), ("AllBeta", "BETA")];
        // Those that stand for a stage are off unless they were set, which shows in the others.
        let stages = stages.map(|(name, stage)| (name, stage, false));
        let gates = KNOWN.iter();
        stages
            .into_iter()
            .chain(gates.map(|gate| (gate.0, gate.2, self.is_enabled(gate.0))))
    }

    /// The gates without an effect that differ from their default.
    pub fn changed(&self) -> Vec<&'static str> {
        let changed = KNOWN
            .iter()
            .filter(|gate| self.is_enabled(gate.0) != gate.1 && !BUILT.contains(&gate.0));
        changed.map(|gate| gate.0).collect()
    }
}

/// The lines of the help that list the gates.
pub fn known() -> Vec<String> {
    let mut lines = vec![
        "AllAlpha=true|false (ALPHA - default=false)".to_owned(),
        "AllBeta=true|false (BETA - default=false)".to_owned(),
    ];
    lines.extend(
        KNOWN
            .iter()
            .map(|gate| format!("{}=true|false ({} - default={})", gate.0, gate.2, gate.1)),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complains_in_etcds_words() {
        let complain = |text| FeatureGates::default().set(text).expect_err("refused");
        assert_eq!(complain("Foo=true"), "unrecognized feature gate: Foo");
        assert_eq!(
            complain("LeaseCheckpoint"),
            "missing bool value for LeaseCheckpoint"
        );
        assert_eq!(
            complain("LeaseCheckpoint=x"),
            "invalid value of LeaseCheckpoint=x, err: strconv.ParseBool: parsing \"x\": \
             invalid syntax"
        );
    }

    #[test]
    fn a_gate_said_by_name_beats_its_stage() {
        let mut gates = FeatureGates::default();
        gates
            .set("LeaseCheckpoint=false, AllAlpha=true")
            .expect("set");
        assert!(!gates.is_enabled("LeaseCheckpoint"));
        assert!(gates.is_enabled("CompactHashCheck"));
        assert!(gates.is_enabled("FastLeaseKeepAlive"));
        assert!(!gates.changed().contains(&"FastLeaseKeepAlive"));
    }
}
