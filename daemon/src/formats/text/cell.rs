//! One value of a text -> one value of a column. CSV and NDJSON share the parsers, so that they share the rules.

use std::borrow::Cow;

use super::number::special;
use crate::formats::shape::Coercion;

/// Why a value cannot be stored; read after the value itself: `"x" is no number`.
pub(super) type Misfit = &'static str;

pub(super) const NOT_A_NUMBER: Misfit = "is no number";
const NOT_A_BOOLEAN: Misfit = "is no boolean; write true or false";
const NOT_A_TEXT: Misfit = "is no text; write it in quotes";
const NOT_ONE_VALUE: Misfit = "is a list or an object, and the column holds single values";

/// A value as its file writes it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::formats) enum Value<'a> {
    /// JSON's `null`, or an empty field.
    Null,
    /// JSON's `true` or `false`.
    Bool(bool),
    /// A JSON number, every digit of it.
    Number(&'a str),
    /// A JSON string.
    Text(Cow<'a, str>),
    /// A CSV field: what it is, the column says.
    Field(&'a str),
    /// A date whose day and month were put into the order of ISO 8601.
    Dated {
        /// As it is read.
        iso: String,
        /// As it is written.
        written: Cow<'a, str>,
        /// The order that it is written in.
        order: Coercion,
    },
    /// A JSON array.
    List(Vec<Value<'a>>),
    /// A JSON object; no name stands in it twice.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl Value<'_> {
    /// What a number is parsed from. A JSON string may hold one, because many programs write decimals and large integers so.
    pub(super) fn number(&self) -> Result<&str, Misfit> {
        match self {
            Self::Number(text) | Self::Field(text) => Ok(text),
            Self::Text(text) => Ok(text),
            Self::Null | Self::Bool(_) | Self::Dated { .. } => Err(NOT_A_NUMBER),
            Self::List(_) | Self::Object(_) => Err(NOT_ONE_VALUE),
        }
    }

    /// What a date, time, timestamp or duration is parsed from. A number is none of them, and its type says how to write it.
    pub(super) fn time(&self) -> Result<&str, Misfit> {
        match self {
            Self::Number(text) => Ok(text),
            Self::Dated { iso, .. } => Ok(iso),
            other => other.text(),
        }
    }

    /// A text, as it is.
    pub(super) fn text(&self) -> Result<&str, Misfit> {
        match self {
            Self::Field(text) => Ok(text),
            Self::Text(text) => Ok(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Dated { .. } => Err(NOT_A_TEXT),
            Self::List(_) | Self::Object(_) => Err(NOT_ONE_VALUE),
        }
    }

    /// `true` or `false`, in a CSV file also `True` and `TRUE`; never 1 and 0.
    pub(super) fn boolean(&self) -> Result<bool, Misfit> {
        match self {
            Self::Bool(value) => Ok(*value),
            Self::Field(text) => boolean(text).ok_or(NOT_A_BOOLEAN),
            Self::Null | Self::Number(_) | Self::Text(_) | Self::Dated { .. } => Err(NOT_A_BOOLEAN),
            Self::List(_) | Self::Object(_) => Err(NOT_ONE_VALUE),
        }
    }

    /// For messages, which shorten it.
    pub(super) fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string().into(),
            Self::Number(text) | Self::Field(text) => (*text).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Dated { written, .. } => written.as_ref().into(),
            Self::List(_) => "[...]".into(),
            Self::Object(_) => "{...}".into(),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Whether a text is one of the floats that are no numbers.
pub(super) fn is_special(text: &str) -> bool {
    special(text).is_some()
}
