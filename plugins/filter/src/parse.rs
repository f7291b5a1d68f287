//! The language of expressions: text to tree, with the place of what is wrong.
//!
//! ```text
//! or         = and { "or" and }
//! and        = not { "and" not }
//! not        = "not" not | comparison
//! comparison = operand [ ("==" | "!=" | "<" | "<=" | ">" | ">=") operand | ["not"] "in" "(" literal { "," literal } ")" ]
//! operand    = "(" or ")" | "exists" "(" field ")" | "matches" "(" field "," text ")" | literal | field
//! literal    = text in single quotes, doubled within | number | "true" | "false" | "null"
//! field      = name { "." name }; names with other characters in backquotes; "key." in front: the key's; "header." a header
//! ```

use std::ops::Range;

use regex_lite::Regex;

/// An expression as it was written.
#[derive(Debug, Clone)]
pub enum Tree {
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
    Compare(Field, Comparison, Literal),
    In(Field, Vec<Literal>),
    Exists(Field),
    Matches(Field, Regex),
    /// A field alone: whether it is true.
    IsTrue(Field),
    Constant(bool),
}

/// A field of the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Names from the outside in; the first may be `key` or `header`.
    pub path: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub struct Error {
    pub at: Range<usize>,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Number(String),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 11] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", ",", ".", "-"];

/// Deepest nesting of parentheses and `not`.
const DEPTH_MAX: usize = 64;

fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, Error> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap_or(' ');
        let (token, length) = if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if first == '\'' || first == '`' {
            let (content, length) =
                quoted(rest, first).ok_or_else(|| Error { at: at..text.len(), message: format!("the quote {first} is not closed") })?;
            (if first == '`' { Token::Quoted(content) } else { Token::Text(content) }, length)
        } else if first.is_ascii_digit() {
            let length = number_length(rest);
            (Token::Number(rest[..length].to_owned()), length)
        } else if first.is_alphabetic() || first == '_' || first == '$' || first == '@' {
            let is_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '$' | '@');
            let length = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
            (Token::Word(rest[..length].to_owned()), length)
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            let message = match first {
                '=' => "a single = compares nothing: write ==".to_owned(),
                '"' => "texts stand in single quotes: 'text'".to_owned(),
                '&' | '|' => "write `and`, `or`".to_owned(),
                '!' => "write `not`".to_owned(),
                other => format!("{other:?} has no meaning here"),
            };
            return Err(Error { at: at..at + first.len_utf8(), message });
        };
        found.push((token, at..at + length));
        at += length;
    }
    found.push((Token::End, text.len()..text.len()));
    Ok(found)
}

/// The content of a quoted text, doubled quotes undone, and its length with quotes.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut content = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((index, character)) = characters.next() {
        if character != quote {
            content.push(character);
        } else if characters.peek().is_some_and(|(_, next)| *next == quote) {
            content.push(quote);
            characters.next();
        } else {
            return Some((content, index + 1));
        }
    }
    None
}

fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 0;
    let digits = |at: &mut usize| {
        while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
    };
    digits(&mut at);
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at += 1;
        digits(&mut at);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let mut exponent = at + 1;
        if matches!(bytes.get(exponent), Some(b'+' | b'-')) {
            exponent += 1;
        }
        if bytes.get(exponent).is_some_and(u8::is_ascii_digit) {
            at = exponent;
            digits(&mut at);
        }
    }
    at
}

/// Reads an expression.
///
/// # Errors
/// The first thing that is wrong, with its place in bytes.
pub fn parse(text: &str) -> Result<Tree, Error> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0 };
    let tree = parser.or(0)?;
    match parser.peek() {
        Token::End => Ok(tree),
        _ => Err(parser.error("here an operator (`and`, `or`, ==, ..) or the end is expected")),
    }
}

struct Parser {
    tokens: Vec<(Token, Range<usize>)>,
    next: usize,
}

enum Operand {
    Field(Field),
    Literal(Literal),
    Tree(Tree),
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    fn take(&mut self) -> (Token, Range<usize>) {
        let taken = self.tokens[self.next].clone();
        // The end stays the end.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        taken
    }

    fn error(&self, message: &str) -> Error {
        Error { at: self.tokens[self.next].1.clone(), message: message.to_owned() }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(found) if found == word)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        if is {
            self.take();
        }
        is
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let is = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if is {
            self.take();
        }
        is
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Error> {
        if self.eat(symbol) { Ok(()) } else { Err(self.error(&format!("here {symbol} is expected"))) }
    }

    fn or(&mut self, depth: usize) -> Result<Tree, Error> {
        let mut left = self.and(depth)?;
        while self.eat_word("or") {
            left = Tree::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Tree, Error> {
        let mut left = self.not(depth)?;
        while self.eat_word("and") {
            left = Tree::And(Box::new(left), Box::new(self.not(depth)?));
        }
        Ok(left)
    }

    fn not(&mut self, depth: usize) -> Result<Tree, Error> {
        if depth > DEPTH_MAX {
            return Err(self.error(&format!("it nests deeper than {DEPTH_MAX}")));
        }
        if self.eat_word("not") {
            return Ok(Tree::Not(Box::new(self.not(depth + 1)?)));
        }
        self.comparison(depth)
    }

    fn comparison(&mut self, depth: usize) -> Result<Tree, Error> {
        let start = self.tokens[self.next].1.start;
        let left = self.operand(depth)?;
        if self.is_word("in") || (self.is_word("not") && matches!(&self.tokens[self.next + 1].0, Token::Word(word) if word == "in")) {
            let negated = self.eat_word("not");
            self.take();
            let Operand::Field(field) = left else { return Err(self.error("what stands before `in` must be a field")) };
            let tree = Tree::In(field, self.list()?);
            return Ok(if negated { Tree::Not(Box::new(tree)) } else { tree });
        }
        let Some(comparison) = self.comparison_sign() else {
            return match left {
                Operand::Tree(tree) => Ok(tree),
                Operand::Field(field) => Ok(Tree::IsTrue(field)),
                Operand::Literal(Literal::Bool(value)) => Ok(Tree::Constant(value)),
                Operand::Literal(_) => {
                    let end = self.tokens[self.next.saturating_sub(1)].1.end;
                    Err(Error { at: start..end, message: "a value alone is neither true nor false: compare it".to_owned() })
                }
            };
        };
        let right = self.operand(depth)?;
        let end = self.tokens[self.next.saturating_sub(1)].1.end;
        let wrong = |message: &str| Err(Error { at: start..end, message: message.to_owned() });
        match (left, right) {
            (Operand::Field(field), Operand::Literal(literal)) => compare(field, comparison, literal, start..end),
            (Operand::Literal(literal), Operand::Field(field)) => compare(field, comparison.turned(), literal, start..end),
            (Operand::Field(_), Operand::Field(_)) => wrong("two fields cannot be compared with each other, only a field with a value"),
            (Operand::Literal(_), Operand::Literal(_)) => wrong("two values are compared: one side must be a field"),
            _ => wrong("a condition cannot be compared"),
        }
    }

    fn comparison_sign(&mut self) -> Option<Comparison> {
        let Token::Symbol(symbol) = self.peek() else { return None };
        let comparison = match *symbol {
            "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.take();
        Some(comparison)
    }

    fn list(&mut self) -> Result<Vec<Literal>, Error> {
        self.expect("(")?;
        let mut list = Vec::new();
        loop {
            match self.operand(0)? {
                Operand::Literal(literal) => list.push(literal),
                _ => return Err(self.error("a list holds values only")),
            }
            if self.eat(")") {
                return Ok(list);
            }
            self.expect(",")?;
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, Error> {
        if depth > DEPTH_MAX {
            return Err(self.error(&format!("it nests deeper than {DEPTH_MAX}")));
        }
        if self.eat("(") {
            let tree = self.or(depth + 1)?;
            self.expect(")")?;
            return Ok(Operand::Tree(tree));
        }
        let negative = self.eat("-");
        let (token, at) = match self.peek() {
            Token::End => return Err(self.error("the expression ends here, a field or a value is expected")),
            _ => self.take(),
        };
        let literal = |literal| Ok(Operand::Literal(literal));
        match token {
            Token::Number(text) => literal(number(&text, negative, at)?),
            _ if negative => Err(Error { at, message: "behind - a number is expected".to_owned() }),
            Token::Text(text) => literal(Literal::Text(text)),
            Token::Word(word) if word == "true" || word == "false" => literal(Literal::Bool(word == "true")),
            Token::Word(word) if word == "null" => literal(Literal::Null),
            Token::Word(word) if word == "exists" && self.eat("(") => {
                let field = self.field()?;
                self.expect(")")?;
                Ok(Operand::Tree(Tree::Exists(field)))
            }
            Token::Word(word) if word == "matches" && self.eat("(") => {
                let field = self.field()?;
                self.expect(",")?;
                let (pattern, at) = self.take();
                let Token::Text(pattern) = pattern else {
                    return Err(Error { at, message: "a regular expression in single quotes is expected".to_owned() });
                };
                let regex = Regex::new(&pattern).map_err(|error| Error { at, message: format!("no regular expression: {error}") })?;
                self.expect(")")?;
                Ok(Operand::Tree(Tree::Matches(field, regex)))
            }
            Token::Word(word) if matches!(word.as_str(), "and" | "or" | "in" | "not") => {
                Err(Error { at, message: format!("`{word}` stands where a field or a value is expected") })
            }
            Token::Word(name) | Token::Quoted(name) => self.path(name).map(Operand::Field),
            Token::Symbol(symbol) => Err(Error { at, message: format!("{symbol} stands where a field or a value is expected") }),
            Token::End => Err(Error { at, message: "a field or a value is expected".to_owned() }),
        }
    }

    fn field(&mut self) -> Result<Field, Error> {
        match self.take() {
            (Token::Word(name) | Token::Quoted(name), _) => self.path(name),
            (_, at) => Err(Error { at, message: "a field is expected".to_owned() }),
        }
    }

    fn path(&mut self, first: String) -> Result<Field, Error> {
        let mut path = vec![first];
        while self.eat(".") {
            match self.take() {
                (Token::Word(name) | Token::Quoted(name) | Token::Number(name), _) => path.push(name),
                (_, at) => return Err(Error { at, message: "behind a dot a name is expected".to_owned() }),
            }
        }
        Ok(Field { path })
    }
}

fn number(text: &str, negative: bool, at: Range<usize>) -> Result<Literal, Error> {
    let text = if negative { format!("-{text}") } else { text.to_owned() };
    if let Ok(integer) = text.parse() {
        return Ok(Literal::Integer(integer));
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(Literal::Float(float)),
        _ => Err(Error { at, message: format!("{text} is no number that can be compared") }),
    }
}

fn compare(field: Field, comparison: Comparison, literal: Literal, at: Range<usize>) -> Result<Tree, Error> {
    let ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    if ordered && matches!(literal, Literal::Null | Literal::Bool(_)) {
        return Err(Error { at, message: "null, true and false have no order: use == or !=".to_owned() });
    }
    Ok(Tree::Compare(field, comparison, literal))
}

impl Comparison {
    /// With the sides exchanged.
    fn turned(self) -> Self {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
            same => same,
        }
    }
}
