//! A report as the client has it: a tree, built from the items of the control socket.

use crate::proto::report::Sink;

/// A value of a report.
#[derive(Debug)]
pub enum Value {
    /// Fields in the order in which they came.
    Table(Vec<(String, Value)>),
    /// Values without names.
    Array(Vec<Value>),
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// A truth value.
    Flag(bool),
}

impl Value {
    /// A field of a table.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Table(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Its text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text field; empty when it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.field(name).and_then(Self::as_text).unwrap_or_default()
    }

    /// A number field; -1 when it is not there.
    pub fn number(&self, name: &str) -> i64 {
        match self.field(name) {
            Some(Self::Number(number)) => *number,
            _ => -1,
        }
    }

    /// A flag; false when it is not there.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.field(name), Some(Self::Flag(true)))
    }

    /// The fields of a table field.
    pub fn fields(&self, name: &str) -> &[(String, Self)] {
        match self.field(name) {
            Some(Self::Table(fields)) => fields,
            _ => &[],
        }
    }

    /// What the fields of a table hold.
    pub fn values_of_table(&self) -> impl Iterator<Item = &Self> {
        let fields: &[(String, Self)] = match self {
            Self::Table(fields) => fields,
            _ => &[],
        };
        fields.iter().map(|(_, value)| value)
    }

    /// The values of an array field.
    pub fn values(&self, name: &str) -> &[Self] {
        match self.field(name) {
            Some(Self::Array(values)) => values,
            _ => &[],
        }
    }
}

/// Builds a tree; what is open at the end is closed.
#[derive(Debug)]
pub struct Builder {
    /// The open ones, outermost first, each with its own name.
    open: Vec<(String, Value)>,
}

impl Default for Builder {
    /// An empty table.
    fn default() -> Self {
        Self { open: vec![(String::new(), Value::Table(Vec::new()))] }
    }
}

impl Builder {
    fn add(&mut self, name: &str, value: Value) {
        match self.open.last_mut() {
            Some((_, Value::Table(fields))) => fields.push((name.to_owned(), value)),
            Some((_, Value::Array(values))) => values.push(value),
            _ => {}
        }
    }

    /// The tree.
    pub fn finish(mut self) -> Value {
        while self.open.len() > 1 {
            self.end();
        }
        self.open.pop().map_or(Value::Table(Vec::new()), |(_, value)| value)
    }
}

impl Sink for Builder {
    fn table(&mut self, name: &str) {
        self.open.push((name.to_owned(), Value::Table(Vec::new())));
    }

    fn array(&mut self, name: &str) {
        self.open.push((name.to_owned(), Value::Array(Vec::new())));
    }

    fn end(&mut self) {
        // The outermost stays: somebody who closes too much changes nothing.
        if self.open.len() > 1
            && let Some((name, value)) = self.open.pop()
        {
            self.add(&name, value);
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.add(name, Value::Text(value.to_owned()));
    }

    fn number(&mut self, name: &str, value: i64) {
        self.add(name, Value::Number(value));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.add(name, Value::Flag(value));
    }
}
