//! Problems of a configuration: where, what, and what would be right; shown the way rustc shows its own.
//!
//! Invariant: a problem points into the text that the user wrote; a secret's text is never part of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use regex::Regex;

/// What looks like a secret in plain text, wherever it stands: values of keys that are called so, logins in URLs.
static PLAIN_SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    let value = r#"(?:"[^"\n]*"|'[^'\n]*')"#;
    let key = r"(?:password|secret|token|authorization|api-?key)";
    let login = r#"://([^/\s"'@]+:[^/\s"'@]+)@"#;
    Regex::new(&format!(r#"(?i){key}["']?\s*=\s*({value})|{login}"#)).expect("a constant that every report uses")
});

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// Allowed, and probably not meant.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Bytes of the file that it is about.
    pub at: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Another place that belongs to it, and why.
    pub beside: Option<(Range<usize>, String)>,
}

impl Problem {
    /// Something that keeps the router from starting.
    pub fn error(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, at, message: message.into(), help: Some(help.into()), beside: None }
    }

    /// Something that is probably not meant.
    pub fn warning(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(at, message, help) }
    }

    /// With another place that belongs to it.
    #[must_use]
    pub fn beside(mut self, at: Range<usize>, why: impl Into<String>) -> Self {
        self.beside = Some((at, why.into()));
        self
    }
}

/// What a part of the configuration finds wrong with itself beyond single values: it knows its keys, not where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, from the part's own table inwards; where it is not written, its table is shown.
    pub path: Vec<String>,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub remedy: String,
    /// Probably not meant, but allowed.
    pub is_warning: bool,
}

impl Fault {
    /// At a key, such as `"security.username"`.
    pub fn new(key: &str, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        let path = key.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Fault { path, wrong: wrong.into(), remedy: remedy.into(), is_warning: false }
    }

    /// At an entry of a table or an array: `name` may hold dots, or be an index.
    pub fn below(key: &str, name: &str, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        let mut fault = Fault::new(key, wrong, remedy);
        fault.path.push(name.to_owned());
        fault
    }

    /// Allowed, and probably not meant.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.is_warning = true;
        self
    }
}

/// All problems of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// In the order of the text.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Problems of `text`, in its order, each once.
    pub fn new(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.at.start, problem.at.end));
        problems.dedup();
        let mut report = Report { path: path.to_owned(), text: text.to_owned(), problems };
        let secrets = PLAIN_SECRETS.captures_iter(text).filter_map(|found| Some(found.get(1).or_else(|| found.get(2))?.range()));
        report.hide(&secrets.collect::<Vec<_>>());
        report
    }

    /// Makes ranges of the text unreadable: secrets that were written in plain text are not shown to others too.
    pub fn hide(&mut self, ranges: &[Range<usize>]) {
        for range in ranges {
            let Some(found) = self.text.get(range.clone()) else { continue };
            let stars: String = found.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
            self.text.replace_range(range.clone(), &stars);
        }
    }

    /// The same with further problems of the same file.
    #[must_use]
    pub fn with(self, problems: Vec<Problem>) -> Self {
        let all = self.problems.into_iter().chain(problems).collect();
        Report::new(&self.path, &self.text, all)
    }

    /// Whether something keeps the router from starting.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// "2 errors, 1 warning"; empty without problems.
    pub fn summary(&self) -> String {
        let part = |count: usize, word: &str| (count > 0).then(|| format!("{count} {word}{}", if count == 1 { "" } else { "s" }));
        let parts = [part(self.count(Severity::Error), "error"), part(self.count(Severity::Warning), "warning")];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// All problems as text with file, line and caret; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let path = self.path.display().to_string();
        let shown = self.problems.iter().map(|problem| renderer.render(&[self.group(problem, &path)]) + "\n");
        shown.collect::<Vec<_>>().join("\n")
    }

    fn group<'a>(&'a self, problem: &'a Problem, path: &'a str) -> annotate_snippets::Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut snippet = Snippet::source(&self.text).path(path).annotation(AnnotationKind::Primary.span(self.within(&problem.at)));
        if let Some((at, why)) = &problem.beside {
            snippet = snippet.annotation(AnnotationKind::Context.span(self.within(at)).label(why));
        }
        let group = level.primary_title(&problem.message).element(snippet);
        match &problem.help {
            Some(help) if !help.is_empty() => group.element(Level::HELP.message(help)),
            _ => group,
        }
    }

    /// A range that the renderer can show: within the text, on character boundaries, one line of it.
    fn within(&self, at: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(at.start.min(self.text.len()));
        let end = self.text.ceil_char_boundary(at.end.clamp(start, self.text.len()));
        let line_end = self.text[start..end].find('\n').map_or(end, |length| start + length);
        start..line_end.max(start)
    }
}
