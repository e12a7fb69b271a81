//! The typed reading, by `serde_yaml`: what each scalar is.
//!
//! Not by `serde_yaml::Value`: that one stops at a duplicate key, and every duplicate of a file is to be reported.

use super::scalar::Resolved;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::cell::Cell;
use std::fmt;

/// A document's values.
#[derive(Debug)]
pub(super) enum Value {
    Scalar(Resolved, Option<String>),
    List(Vec<Value>),
    /// Duplicates included.
    Table(Vec<(Value, Value)>),
}

impl Value {
    /// What a scalar is; `None` where this is none, or text other than what the marked reading has.
    pub(super) fn resolved(&self, marked: &str) -> Option<Resolved> {
        match self {
            Value::Scalar(Resolved::Text, text) if text.as_deref() != Some(marked) => None,
            Value::Scalar(resolved, _) => Some(*resolved),
            Value::List(_) | Value::Table(_) => None,
        }
    }
}

/// Why there are no values.
#[derive(Debug)]
pub(super) enum Fault {
    /// Over all files the bound on nodes is passed.
    TooManyNodes,
    /// It is not YAML to `serde_yaml`.
    Syntax { line: u32, column: u32, what: String },
}

/// Reads a text of one document; `nodes` counts over all files.
pub(super) fn read(text: &str, nodes: &Cell<usize>) -> Result<Value, Fault> {
    match Seed(nodes).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(value) => Ok(value),
        Err(_) if nodes.get() > super::NODES_MAX => Err(Fault::TooManyNodes),
        Err(e) => {
            let what = e.to_string();
            if what.contains("repetition limit exceeded") {
                return Err(Fault::TooManyNodes);
            }
            let (line, column) = e.location().map_or((0, 0), |l| (l.line(), l.column()));
            // The place stands in front of the problem already.
            let what = what.split(" at line ").next().unwrap_or_default().to_owned();
            let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Err(Fault::Syntax { line: cut(line), column: cut(column), what })
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Cell<usize>);

impl Seed<'_> {
    fn count<E: de::Error>(&self) -> Result<(), E> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > super::NODES_MAX { Err(E::custom("too many nodes")) } else { Ok(()) }
    }

    fn scalar<E: de::Error>(&self, resolved: Resolved) -> Result<Value, E> {
        self.count()?;
        Ok(Value::Scalar(resolved, None))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.scalar(Resolved::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.scalar(Resolved::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(Resolved::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(Resolved::Int(value.into()))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(Resolved::Int(value.into()))
    }
    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        self.scalar(Resolved::Int(value))
    }
    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        self.scalar(Resolved::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        self.scalar(Resolved::Float)
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.count()?;
        Ok(Value::Scalar(Resolved::Text, Some(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut table = Vec::new();
        while let Some(key) = entries.next_key_seed(self)? {
            table.push((key, entries.next_value_seed(self)?));
        }
        Ok(Value::Table(table))
    }
    /// A tagged value: what the tag means is the marked reading's affair.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, content) = tagged.variant::<String>()?;
        content.newtype_variant_seed(self)
    }
}
