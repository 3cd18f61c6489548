//! Protobuf's JSON rules, by descriptor: no message type is named here.
//!
//! In: names as in the proto or in lowerCamelCase, 64-bit integers as strings or numbers, enums as
//! names or numbers, bytes as base64 of either alphabet with or without padding, null as absent;
//! unknown names are skipped and a name given twice is an error. Out: names as in the proto, 64-bit
//! integers as strings, enums as names, bytes as standard base64, zero values left out.
//!
//! Differs from etcd: the column in an error's `(line L:C)` is where this parser stopped, which is
//! the end of the bad value rather than its start.
//!
//! Source: protojson with the options in etcd's `server/embed/serve.go`.

use std::fmt;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions, Value,
};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess};
use serde::de::{Unexpected, Visitor};

use crate::error::{Error, Result};

/// As Go's decoders do, takes any trailing bits.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const PADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const UNPADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone);
/// Each alphabet, with padding and without.
static STANDARD_BASE64: [GeneralPurpose; 2] = [
    GeneralPurpose::new(&STANDARD, PADDED),
    GeneralPurpose::new(&STANDARD, UNPADDED),
];
static URL_SAFE_BASE64: [GeneralPurpose; 2] = [
    GeneralPurpose::new(&URL_SAFE, PADDED),
    GeneralPurpose::new(&URL_SAFE, UNPADDED),
];

/// Reads the first JSON value of `body` as a message of type `descriptor`.
///
/// An empty body is an empty message; what follows the first value is not looked at, as in etcd.
///
/// Errors: [`Error::BadJson`].
pub(crate) fn decode(descriptor: &MessageDescriptor, body: &[u8]) -> Result<Vec<u8>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let message = MessageSeed(descriptor.clone())
        .deserialize(&mut deserializer)
        .map_err(|error| Error::BadJson(describe(&error)))?;
    Ok(message.encode_to_vec())
}

/// Writes `message`, an encoded message of type `descriptor`, as JSON at the end of `out`.
///
/// Errors: [`Error::BadReply`] when the bytes are not such a message.
pub(crate) fn encode(
    descriptor: &MessageDescriptor,
    message: Bytes,
    out: &mut Vec<u8>,
) -> Result<()> {
    let message = DynamicMessage::decode(descriptor.clone(), message)
        .map_err(|error| Error::BadReply(format!("decoding the reply: {error}")))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(out), &options)
        .map_err(|error| Error::BadReply(format!("writing the reply: {error}")))
}

/// The error's text in etcd's form.
fn describe(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".into();
    }
    let place = format!("(line {}:{})", error.line(), error.column());
    let text = error.to_string();
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&suffix).unwrap_or(&text);
    if error.is_syntax() {
        format!("proto: syntax error {place}: {text}")
    } else {
        format!("proto: {place}: {text}")
    }
}

/// Reads one JSON object as a message.
struct MessageSeed(MessageDescriptor);

impl<'de> DeserializeSeed<'de> for MessageSeed {
    type Value = DynamicMessage;

    fn deserialize<D>(self, deserializer: D) -> std::result::Result<DynamicMessage, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed {
    type Value = DynamicMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for message {}", self.0.full_name())
    }

    fn visit_map<A>(self, mut map: A) -> std::result::Result<DynamicMessage, A::Error>
    where
        A: MapAccess<'de>,
    {
        let mut message = DynamicMessage::new(self.0.clone());
        let mut seen_fields = Vec::new();
        let mut seen_oneofs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let by_json_name = self.0.get_field_by_json_name(&name);
            let Some(field) = by_json_name.or_else(|| self.0.get_field_by_name(&name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen_fields.contains(&field.number()) {
                return Err(A::Error::custom(format_args!("duplicate field {name:?}")));
            }
            seen_fields.push(field.number());
            let Some(value) = map.next_value_seed(FieldSeed(&field))? else {
                continue;
            };
            if let Some(oneof) = field.containing_oneof() {
                if seen_oneofs.contains(&oneof.full_name().to_string()) {
                    let oneof = oneof.full_name();
                    return Err(A::Error::custom(format_args!(
                        "oneof {oneof} is already set"
                    )));
                }
                seen_oneofs.push(oneof.full_name().to_string());
            }
            message.set_field(&field, value);
        }
        Ok(message)
    }
}

/// Reads a field's value; `None` for null and for an enum's unknown name.
struct FieldSeed<'a>(&'a FieldDescriptor);

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D>(self, deserializer: D) -> std::result::Result<Option<Value>, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list for field {}", self.0.name())
    }

    fn visit_none<E: serde::de::Error>(self) -> std::result::Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D>(self, deserializer: D) -> std::result::Result<Option<Value>, D::Error>
    where
        D: Deserializer<'de>,
    {
        if self.0.is_list() {
            deserializer.deserialize_seq(self)
        } else {
            SingularSeed(self.0).deserialize(deserializer)
        }
    }

    fn visit_seq<A>(self, mut seq: A) -> std::result::Result<Option<Value>, A::Error>
    where
        A: SeqAccess<'de>,
    {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(SingularSeed(self.0))? {
            values.extend(value);
        }
        Ok(Some(Value::List(values)))
    }
}

/// Reads one value of a field, or one element when it is repeated.
struct SingularSeed<'a>(&'a FieldDescriptor);

impl<'de> DeserializeSeed<'de> for SingularSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D>(self, deserializer: D) -> std::result::Result<Option<Value>, D::Error>
    where
        D: Deserializer<'de>,
    {
        match self.0.kind() {
            Kind::Message(descriptor) => MessageSeed(descriptor)
                .deserialize(deserializer)
                .map(|m| Some(Value::Message(m))),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl SingularSeed<'_> {
    /// The error for a value of the wrong type or out of range.
    fn invalid<E: serde::de::Error>(&self, value: impl fmt::Display) -> E {
        let field = self.0.name();
        E::custom(format_args!(
            "invalid value for {} field {field}: {value}",
            self.kind_name()
        ))
    }

    /// The field's type as a proto names it.
    fn kind_name(&self) -> String {
        match self.0.kind() {
            Kind::Message(message) => message.full_name().to_string(),
            Kind::Enum(_) => "enum".to_string(),
            kind => format!("{kind:?}").to_lowercase(),
        }
    }

    /// An integer, however it was written; `None` when this kind cannot hold it.
    fn integer(&self, value: i128) -> Option<Value> {
        match self.0.kind() {
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => value.try_into().ok().map(Value::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => value.try_into().ok().map(Value::I64),
            Kind::Uint32 | Kind::Fixed32 => value.try_into().ok().map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => value.try_into().ok().map(Value::U64),
            Kind::Enum(_) => value.try_into().ok().map(Value::EnumNumber),
            Kind::Float => Some(Value::F32(value as f32)),
            Kind::Double => Some(Value::F64(value as f64)),
            _ => None,
        }
    }

    /// A number with a fraction or an exponent: an integer field takes it if it is whole.
    fn float(&self, value: f64) -> Option<Value> {
        match self.0.kind() {
            Kind::Float => Some(Value::F32(value as f32)),
            Kind::Double => Some(Value::F64(value)),
            // Above 2^127 the cast saturates, which no integer kind holds either.
            _ if value.fract() == 0.0 => self.integer(value as i128),
            _ => None,
        }
    }

    /// A number that stands in a string.
    fn number_in(&self, text: &str) -> Option<Value> {
        match (self.0.kind(), text) {
            (Kind::Float, "NaN") => return Some(Value::F32(f32::NAN)),
            (Kind::Float, "Infinity") => return Some(Value::F32(f32::INFINITY)),
            (Kind::Float, "-Infinity") => return Some(Value::F32(f32::NEG_INFINITY)),
            (Kind::Double, "NaN") => return Some(Value::F64(f64::NAN)),
            (Kind::Double, "Infinity") => return Some(Value::F64(f64::INFINITY)),
            (Kind::Double, "-Infinity") => return Some(Value::F64(f64::NEG_INFINITY)),
            _ => {}
        }
        if text.trim() != text {
            return None;
        }
        let number: serde_json::Number = serde_json::from_str(text).ok()?;
        if let Some(value) = number.as_i64() {
            self.integer(value.into())
        } else if let Some(value) = number.as_u64() {
            self.integer(value.into())
        } else {
            self.float(number.as_f64()?)
        }
    }
}

impl<'de> Visitor<'de> for SingularSeed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a value for {} field {}",
            self.kind_name(),
            self.0.name()
        )
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<Option<Value>, E> {
        match self.0.kind() {
            Kind::Bool => Ok(Some(Value::Bool(value))),
            _ => Err(self.invalid(value)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<Option<Value>, E> {
        self.integer(value.into())
            .map(Some)
            .ok_or_else(|| self.invalid(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<Option<Value>, E> {
        self.integer(value.into())
            .map(Some)
            .ok_or_else(|| self.invalid(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Option<Value>, E> {
        self.float(value)
            .map(Some)
            .ok_or_else(|| self.invalid(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Option<Value>, E> {
        let value = match self.0.kind() {
            Kind::String => Some(Value::String(text.to_string())),
            Kind::Bytes => from_base64(text).map(|bytes| Value::Bytes(bytes.into())),
            Kind::Enum(descriptor) => {
                // An unknown name counts as an unknown field: skipped.
                let number = descriptor
                    .get_value_by_name(text)
                    .map(|value| value.number());
                return Ok(number.map(Value::EnumNumber));
            }
            Kind::Bool | Kind::Message(_) => None,
            _ => self.number_in(text),
        };
        value
            .map(Some)
            .ok_or_else(|| self.invalid(format_args!("{text:?}")))
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Option<Value>, E> {
        Err(E::invalid_type(Unexpected::Other("null"), &self))
    }
}

/// Decodes base64 of either alphabet; line breaks inside are skipped, as Go's decoder does.
///
/// Whether padding belongs to it is told by the length, in which line breaks count, too: what
/// etcd refuses must not be another key here.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let [padded, unpadded] = if text.contains(['-', '_']) {
        &URL_SAFE_BASE64
    } else {
        &STANDARD_BASE64
    };
    let engine = if text.len().is_multiple_of(4) {
        padded
    } else {
        unpadded
    };
    if text.contains(['\r', '\n']) {
        engine.decode(text.replace(['\r', '\n'], "")).ok()
    } else {
        engine.decode(text).ok()
    }
}

/// Cuts concatenated JSON objects out of a body that arrives in pieces.
///
/// Holds where it stands between pieces, so that every byte is looked at once.
#[derive(Default)]
pub(crate) struct ObjectScanner {
    /// Bytes of the buffer already looked at.
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ObjectScanner {
    /// Returns the length of the first whole object in `buffer`, leading space included, or `None`
    /// when more bytes are needed. After an answer the caller removes those bytes from the buffer.
    ///
    /// Errors: [`Error::BadJson`] when something else than an object begins.
    pub(crate) fn next_end(&mut self, buffer: &[u8]) -> Result<Option<usize>> {
        while let Some(byte) = buffer.get(self.scanned) {
            self.scanned += 1;
            if self.in_string {
                self.in_string = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' if self.depth > 0 => self.in_string = true,
                b'{' => self.depth += 1,
                b'[' if self.depth > 0 => self.depth += 1,
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                byte if self.depth == 0 && !byte.is_ascii_whitespace() => {
                    return Err(Error::BadJson(format!(
                        "proto: syntax error: unexpected token {:?}",
                        char::from(*byte)
                    )));
                }
                _ => {}
            }
            if self.depth == 0 && matches!(byte, b'}' | b']') {
                let end = self.scanned;
                *self = ObjectScanner::default();
                return Ok(Some(end));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
