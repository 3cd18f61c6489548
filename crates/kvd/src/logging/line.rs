//! One log line.
//!
//! JSON: `{"level":"info","ts":"2026-01-02T03:04:05.678901Z","caller":"kvd/run.rs:12","msg":"…",
//! "field":…}`. Console: time, level, caller, message and the fields as one JSON object, by tabs.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

use crate::settings::LogFormat;

/// The parts of a line that are not fields.
pub(super) struct Head<'a> {
    pub(super) time: SystemTime,
    pub(super) level: &'a str,
    pub(super) file: Option<&'a str>,
    pub(super) line: Option<u32>,
}

/// The message and the fields of an event, in the order in which they were given.
#[derive(Default)]
pub(super) struct Fields {
    message: String,
    fields: Map<String, Value>,
    order: Vec<String>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            return;
        }
        // What the `log` crate's bridge adds says no more than the caller does.
        if !field.name().starts_with("log.") {
            self.order.push(field.name().to_owned());
            self.fields.insert(field.name().to_owned(), value);
        }
    }

    /// The finished line with its newline.
    pub(super) fn finish(self, format: LogFormat, head: &Head<'_>) -> String {
        let time = humantime::format_rfc3339_micros(head.time);
        let caller = caller(head.file, head.line);
        let text = |text: &str| Value::from(text).to_string();
        let fields: Vec<String> = self
            .order
            .iter()
            .filter_map(|name| Some(format!("{}:{}", text(name), self.fields.get(name)?)))
            .collect();
        match format {
            LogFormat::Json => {
                let mut line = format!(
                    "{{\"level\":\"{}\",\"ts\":\"{time}\",\"caller\":{},\"msg\":{}",
                    head.level,
                    text(&caller),
                    text(&self.message)
                );
                for field in fields {
                    line.push(',');
                    line.push_str(&field);
                }
                line.push_str("}\n");
                line
            }
            LogFormat::Console => {
                let message = self.message.replace('\n', "\\n");
                let mut line = format!("{time}\t{}\t{caller}\t{message}", head.level);
                if !fields.is_empty() {
                    line.push_str(&format!("\t{{{}}}", fields.join(", ")));
                }
                line.push('\n');
                line
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // A list of texts prints as JSON, and zap writes lists as lists.
        let list = text
            .starts_with('[')
            .then(|| serde_json::from_str(&text).ok())
            .flatten();
        self.put(field, list.unwrap_or(Value::String(text)));
    }
}

/// zap's short caller: the last folder, the file and the line. `src` says nothing and is left out.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let Some(file) = file else {
        return String::new();
    };
    let parts: Vec<&str> = file.split('/').filter(|part| *part != "src").collect();
    let short = parts[parts.len().saturating_sub(2)..].join("/");
    match line {
        Some(line) => format!("{short}:{line}"),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_short() {
        assert_eq!(
            caller(Some("crates/kvd/src/run.rs"), Some(7)),
            "kvd/run.rs:7"
        );
        assert_eq!(
            caller(Some("crates/kvd/src/settings/types.rs"), None),
            "settings/types.rs"
        );
        assert_eq!(caller(None, None), "");
    }
}
