//! JSON (RFC 8259) as a tree that keeps every digit of its numbers. General parsers send numbers through floats, and keep one of
//! two values of the same name.

use std::{borrow::Cow, collections::HashSet};

use super::{cell::Value, infer::joined};

/// What is wrong, at which byte, and in which value: `a.b[3]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) at: usize,
    pub(super) path: String,
    pub(super) reason: &'static str,
}

impl Malformed {
    fn new(at: usize, reason: &'static str) -> Self {
        Self {
            at,
            path: String::new(),
            reason,
        }
    }

    fn below(mut self, name: &str) -> Self {
        self.path = joined(name, &self.path);
        self
    }
}

/// Up to here a duplicate name is looked for by comparing all; beyond, with a set.
const FEW_NAMES: usize = 16;

const END: &str = "the text ends inside of a value; one line holds one whole object";
const NAME: &str = "a name in quotes is expected";
const NUMBER: &str = "a number is malformed; write it as JSON does, without leading zeros";
const VALUE: &str = "a value is expected; JSON knows null, true, false, numbers, strings, [...] and {...}, but no NaN";
const ESCAPE: &str = "a string holds an escape that JSON does not know";
const SURROGATE: &str = "a string holds half of a surrogate pair, which is no character";
const CONTROL: &str = "a string holds a control character; escape it";
const MANY: &str = "the object takes more memory than [agent] max_decoded_bytes allows";
const AFTER: &str = "something follows the object; one line holds one object";

/// Parses one value, after which nothing but white space may follow. Lists and objects may stand `nesting` deep in each other, and
/// the values may take so much `memory`: a byte of text becomes some dozens.
pub(super) fn parse(text: &str, nesting: usize, memory: u64) -> Result<Value<'_>, Malformed> {
    let left = memory / size_of::<(Cow<'_, str>, Value<'_>)>() as u64;
    let mut parser = Parser { text, at: 0, left };
    let value = parser.value(nesting)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.malformed(AFTER));
    }
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Values that may still come.
    left: u64,
}

impl<'a> Parser<'a> {
    fn malformed(&self, reason: &'static str) -> Malformed {
        let reason = if self.at >= self.text.len() {
            END
        } else {
            reason
        };
        Malformed::new(self.at, reason)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Whether `byte` comes next, after white space; it is consumed then.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, nesting: usize) -> Result<Value<'a>, Malformed> {
        self.skip_space();
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| self.malformed(MANY))?;
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'{' | b'[') if nesting == 0 => Err(self
                .malformed("lists and objects are nested deeper than [agent] max_nesting allows")),
            Some(b'{') => self.object(nesting - 1),
            Some(b'[') => self.list(nesting - 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = [
                    ("null", Value::Null),
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                ];
                let rest = &self.text[self.at..];
                let found = words.into_iter().find(|(word, _)| rest.starts_with(word));
                let (word, value) = found.ok_or_else(|| self.malformed(VALUE))?;
                self.at += word.len();
                Ok(value)
            }
        }
    }

    fn list(&mut self, nesting: usize) -> Result<Value<'a>, Malformed> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            let item = self.value(nesting);
            items.push(item.map_err(|malformed| malformed.below(&format!("[{}]", items.len())))?);
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.malformed("a comma or ] is expected"));
            }
        }
    }

    fn object(&mut self, nesting: usize) -> Result<Value<'a>, Malformed> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        let mut names: HashSet<Cow<'a, str>> = HashSet::new();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.malformed(NAME));
            }
            let name = self.string()?;
            if members.len() == FEW_NAMES {
                names = members.iter().map(|(name, _)| name.clone()).collect();
            }
            let repeated = if members.len() < FEW_NAMES {
                members.iter().any(|(other, _)| *other == name)
            } else {
                !names.insert(name.clone())
            };
            if repeated {
                let reason = "stands twice in one object; remove one of them";
                return Err(Malformed::new(start, reason).below(&name));
            }
            if !self.take(b':') {
                return Err(self.malformed("a colon is expected"));
            }
            let value = self.value(nesting);
            let value = value.map_err(|malformed| malformed.below(&name))?;
            members.push((name, value));
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.malformed("a comma or } is expected"));
            }
        }
    }

    fn number(&mut self) -> Result<Value<'a>, Malformed> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let whole = self.digits()?;
        if whole.len() > 1 && whole.starts_with('0') {
            return Err(Malformed::new(start, NUMBER));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Value::Number(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.malformed(NUMBER));
        }
        Ok(&self.text[start..self.at])
    }

    /// At a quote: the text up to the next one, borrowed unless it holds escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.at += 1;
        let mut start = self.at;
        let mut unescaped = String::new();
        loop {
            match self.peek() {
                None => return Err(self.malformed(END)),
                Some(b'"') => {
                    let rest = &self.text[start..self.at];
                    self.at += 1;
                    if unescaped.is_empty() {
                        return Ok(Cow::Borrowed(rest));
                    }
                    unescaped.push_str(rest);
                    return Ok(Cow::Owned(unescaped));
                }
                Some(b'\\') => {
                    unescaped.push_str(&self.text[start..self.at]);
                    unescaped.push(self.escape()?);
                    start = self.at;
                }
                Some(0..=0x1f) => return Err(self.malformed(CONTROL)),
                Some(_) => self.at += 1,
            }
        }
    }

    /// At a backslash.
    fn escape(&mut self) -> Result<char, Malformed> {
        let start = self.at;
        self.at += 1;
        let simple = match self.peek() {
            Some(quoted @ (b'"' | b'\\' | b'/')) => char::from(quoted),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(start),
            _ => return Err(self.malformed(ESCAPE)),
        };
        self.at += 1;
        Ok(simple)
    }

    fn unicode(&mut self, start: usize) -> Result<char, Malformed> {
        let high = self.unit()?;
        let code = match high {
            0xd800..=0xdbff => {
                let low = if self.text[self.at..].starts_with("\\u") {
                    self.at += 1;
                    self.unit()?
                } else {
                    0
                };
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(Malformed::new(start, SURROGATE));
                }
                0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            unit => unit,
        };
        char::from_u32(code).ok_or_else(|| Malformed::new(start, SURROGATE))
    }

    /// At the `u` of an escape: its four digits.
    fn unit(&mut self) -> Result<u32, Malformed> {
        let digits = self.text.get(self.at + 1..self.at + 5);
        let digits = digits.filter(|d| d.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.malformed(ESCAPE))?;
        self.at += 5;
        Ok(unit)
    }
}
