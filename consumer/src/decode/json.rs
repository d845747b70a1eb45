//! `Json`: observation bodies of any shape; and `ZipkinJson`, which is one of them.
//!
//! One pass over the message cuts out the spans and notes trace id and kind of each. What is guaranteed:
//!
//! - A span's text reaches the body byte for byte. Any JSON value may be a span, not only an object.
//! - Trace id and kind are strings or numbers (a number as it is written); anything else, and an empty string,
//!   counts as absent. They are looked for in the span first and then at the root of the message, wherever in
//!   the message they stand. Where a key occurs twice the last one counts, as in most JSON readers.
//! - The list of spans may be one span instead, or within a message `null` (no spans). It must occur once: a second list is an
//!   error of the message rather than spans that vanish.
//! - A path at the root is not followed into the list of spans.

use std::borrow::Cow;

use sluice_crds::v1alpha1::JsonPaths;

use super::output::Output;
use super::scan::{Scanner, Syntax, unescape};
use crate::span::{SpanBuf, SpanRef};

/// One path each, as a bit; its place in [`Found`] is the bit's number.
pub(super) mod path {
    pub(in super::super) const TRACE_ID: u8 = 1;
    pub(in super::super) const KIND: u8 = 2;
    pub(in super::super) const SPANS: u8 = 4;
    /// Zipkin's span id, by which `Auto` knows a Zipkin span.
    pub(in super::super) const ID: u8 = 8;
    /// The list by which `Auto` knows OTLP.
    pub(in super::super) const RESOURCE_SPANS: u8 = 16;
    /// Zipkin's trace id at the root, wherever the `Json` format has its own.
    pub(in super::super) const ZIPKIN_TRACE_ID: u8 = 32;
    pub(super) const COUNT: usize = 6;
}

/// The texts that paths lead to; empty where there is none.
pub(super) type Found<'a> = [&'a str; path::COUNT];

/// What a path led to.
pub(super) fn at<'a>(found: &Found<'a>, path: u8) -> &'a str {
    found[path.trailing_zeros() as usize]
}

#[derive(Clone, Debug)]
struct Token {
    key: String,
    /// The token as an index of a list.
    index: Option<usize>,
}

/// JSON Pointers, compiled.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    tokens: [Vec<Token>; path::COUNT],
    /// Whether the message is the span, or the list of spans.
    pub(super) spans_at_root: bool,
}

impl Paths {
    /// Compiles the paths of the `Json` format.
    ///
    /// # Errors
    /// One of them is no JSON Pointer.
    pub(super) fn new(paths: &JsonPaths) -> Result<Self, PathError> {
        if paths.trace_id.is_empty() {
            let found = "expected a JSON Pointer like /traceId, found an empty one".to_owned();
            return Err(PathError { field: "json.traceId", found });
        }
        let own = |name: &str| vec![Token { key: name.to_owned(), index: None }];
        Ok(Self {
            tokens: [
                pointer("json.traceId", &paths.trace_id)?,
                pointer("json.kind", &paths.kind)?,
                pointer("json.spans", &paths.spans)?,
                own("id"),
                own("resourceSpans"),
                own("traceId"),
            ],
            spans_at_root: paths.spans.is_empty(),
        })
    }

    /// A list of Zipkin spans, or one.
    pub(super) fn zipkin() -> Self {
        let own = |name: &str| vec![Token { key: name.to_owned(), index: None }];
        Self {
            tokens: [own("traceId"), own("kind"), Vec::new(), own("id"), own(""), own("")],
            spans_at_root: true,
        }
    }

    fn tokens(&self, path: u8) -> &[Token] {
        &self.tokens[path.trailing_zeros() as usize]
    }

    /// Of the paths in `mask` those that step `step` leads on.
    #[inline]
    fn follow(&self, mask: u8, step: usize, fits: impl Fn(&Token) -> bool) -> u8 {
        let mut followed = 0;
        for bit in bits(mask) {
            if self.tokens(bit).get(step).is_some_and(&fits) {
                followed |= bit;
            }
        }
        followed
    }
}

/// The bits that are set, from the lowest.
fn bits(mut mask: u8) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let bit = mask & mask.wrapping_neg();
        mask &= !bit;
        (bit != 0).then_some(bit)
    })
}

/// A path of the `Json` format that is no JSON Pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {found}")]
pub struct PathError {
    field: &'static str,
    found: String,
}

/// RFC 6901.
fn pointer(field: &'static str, text: &str) -> Result<Vec<Token>, PathError> {
    let wrong = |found: String| PathError { field, found };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(tokens) = text.strip_prefix('/') else {
        return Err(wrong(format!("expected a JSON Pointer, which begins with `/`, found {text:?}")));
    };
    let token = |token: &str| {
        if token.replace("~0", "").replace("~1", "").contains('~') {
            return Err(wrong(format!("in a JSON Pointer `~` is written `~0`, found {text:?}")));
        }
        let is_index = token == "0" || !token.starts_with(['0', '+']);
        let index = if is_index { token.parse().ok() } else { None };
        Ok(Token { key: token.replace("~1", "/").replace("~0", "~"), index })
    };
    tokens.split('/').map(token).collect()
}

/// A span that waits for what the root of the message says.
struct Piece<'a> {
    found: Found<'a>,
    body: &'a str,
}

/// The way through one message.
pub(super) struct Message<'a, 'd> {
    paths: &'d Paths,
    /// Paths to note in each span.
    in_span: u8,
    /// Paths that each span must have, and objects only; else [`Self::misfit`] is set.
    must_have: u8,
    /// What the root of the message says.
    pub(super) root: Found<'a>,
    /// Whether the list of spans was met.
    pub(super) spans_seen: bool,
    /// Whether a span is not an object, or lacks a path that it must have.
    pub(super) misfit: bool,
    waiting: Vec<Piece<'a>>,
}

impl<'a, 'd> Message<'a, 'd> {
    fn new(paths: &'d Paths, must_have: u8) -> Self {
        Self {
            paths,
            in_span: path::TRACE_ID | kind_bit(paths) | must_have,
            must_have,
            root: Found::default(),
            spans_seen: false,
            misfit: false,
            waiting: Vec::new(),
        }
    }

    /// Reads a whole message; spans go to `output`.
    ///
    /// `watch` names further paths to note at the root, `must_have` those that every span must have.
    pub(super) fn read(
        text: &'a str,
        paths: &'d Paths,
        watch: u8,
        must_have: u8,
        output: &mut Output<'_>,
    ) -> Result<Self, Syntax> {
        let mut message = Self::new(paths, must_have);
        let mut scanner = Scanner::new(text);
        if paths.spans_at_root {
            message.in_span |= watch;
            message.spans(&mut scanner, 0, output)?;
        } else {
            let mut root = Found::default();
            let mask = path::SPANS | path::TRACE_ID | kind_bit(paths) | watch;
            message.walk(&mut scanner, 0, 0, mask, &mut root, output)?;
            message.root = root;
        }
        scanner.finish()?;
        message.settle(output);
        Ok(message)
    }

    /// Consumes a value and notes what the paths in `mask`, of which `step` tokens are behind, lead to.
    ///
    /// Recurses once for each token of a path, never deeper than the text is nested.
    fn walk(
        &mut self,
        scanner: &mut Scanner<'a>,
        level: u32,
        step: usize,
        mask: u8,
        found: &mut Found<'a>,
        output: &mut Output<'_>,
    ) -> Result<(), Syntax> {
        match scanner.peek() {
            Some(b'{') => scanner.object(level, |scanner, key| {
                let next = self.paths.follow(mask, step, |token| token.key == key);
                self.arrive(scanner, level + 1, step + 1, next, found, output)
            }),
            Some(b'[') => {
                let mut index = 0;
                scanner.list(level, |scanner| {
                    let next = self.paths.follow(mask, step, |token| token.index == Some(index));
                    index += 1;
                    self.arrive(scanner, level + 1, step + 1, next, found, output)
                })
            }
            _ => scanner.skip_value(level),
        }
    }

    /// Consumes the value that the paths in `mask` have come to with `step` tokens.
    #[inline]
    fn arrive(
        &mut self,
        scanner: &mut Scanner<'a>,
        level: u32,
        step: usize,
        mask: u8,
        found: &mut Found<'a>,
        output: &mut Output<'_>,
    ) -> Result<(), Syntax> {
        if mask == 0 {
            return scanner.skip_value(level);
        }
        let further = self.paths.follow(mask, step, |_| true);
        let ended = mask & !further;
        scanner.peek();
        let start = scanner.position();
        if ended & path::SPANS != 0 {
            if self.spans_seen {
                return Err(scanner.error("the list of spans occurs twice"));
            }
            self.spans(scanner, level, output)?;
        } else if further != 0 {
            // What another value of the same key led to does not count.
            for bit in bits(further) {
                found[bit.trailing_zeros() as usize] = "";
            }
            self.walk(scanner, level, step, further, found, output)?;
        } else {
            scanner.skip_value(level)?;
        }
        for bit in bits(ended) {
            found[bit.trailing_zeros() as usize] = scanner.since(start);
        }
        Ok(())
    }

    /// Consumes the list of spans, or the one span.
    fn spans(
        &mut self,
        scanner: &mut Scanner<'a>,
        level: u32,
        output: &mut Output<'_>,
    ) -> Result<(), Syntax> {
        self.spans_seen = true;
        match scanner.peek() {
            Some(b'[') => scanner.list(level, |scanner| self.span(scanner, level + 1, output)),
            Some(b'n') if level > 0 => scanner.skip_value(level),
            _ => self.span(scanner, level, output),
        }
    }

    fn span(&mut self, scanner: &mut Scanner<'a>, level: u32, output: &mut Output<'_>) -> Result<(), Syntax> {
        let is_object = scanner.peek() == Some(b'{');
        let start = scanner.position();
        let mut found = Found::default();
        self.walk(scanner, level, 0, self.in_span, &mut found, output)?;
        let body = scanner.since(start);
        if level == 0 {
            self.root = found;
        }
        if self.must_have != 0 {
            self.misfit |= !is_object || bits(self.must_have).any(|bit| !at(&found, bit).starts_with('"'));
        }
        let complete = self.paths.spans_at_root
            || has_content(at(&found, path::TRACE_ID))
                && (has_content(at(&found, path::KIND)) || kind_bit(self.paths) == 0);
        if complete && self.waiting.is_empty() {
            push(&Piece { found, body }, &Found::default(), output);
        } else if output.spend(size_of::<Piece<'_>>()) {
            // Many small spans take less in the message than here.
            self.waiting.push(Piece { found, body });
        }
        Ok(())
    }

    /// The root is known: what waited for it can go.
    fn settle(&mut self, output: &mut Output<'_>) {
        for piece in std::mem::take(&mut self.waiting) {
            push(&piece, &self.root, output);
        }
    }
}

/// Trace id and kind of a span, as the paths find them in it, and where it has none as they were found `before`;
/// `None` for half a surrogate pair.
pub(super) fn ids_again<'a>(paths: &Paths, before: SpanRef<'a>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    let (mut nothing, mut none) = (SpanBuf::default(), Vec::new());
    let mut output = Output::new(&mut nothing, &mut none, 0);
    let mut span = Message::new(paths, 0);
    let mut found = Found::default();
    // A body was valid JSON as a part of its message; what is none has no ids of its own.
    let _ = span.walk(&mut Scanner::new(before.body), 0, 0, span.in_span, &mut found, &mut output);
    let pick = |path, before: &'a str| match at(&found, path) {
        own if has_content(own) => scalar(own),
        _ => Some(Cow::Borrowed(before)),
    };
    let kind = if kind_bit(paths) == 0 { "" } else { before.kind };
    Some((pick(path::TRACE_ID, before.trace_id)?, pick(path::KIND, kind)?))
}

/// An empty path to the kind means that there is none.
fn kind_bit(paths: &Paths) -> u8 {
    if paths.tokens(path::KIND).is_empty() { 0 } else { path::KIND }
}

fn push(piece: &Piece<'_>, root: &Found<'_>, output: &mut Output<'_>) {
    let pick = |path| {
        let own = at(&piece.found, path);
        scalar(if has_content(own) { own } else { at(root, path) })
    };
    match (pick(path::TRACE_ID), pick(path::KIND)) {
        (Some(trace_id), Some(kind)) => output.verbatim(&trace_id, &kind, piece.body),
        _ => output.half_surrogate(piece.body.to_owned()),
    }
}

/// Whether a raw value is a string that is not empty, or a number.
fn has_content(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')) && raw != "\"\""
}

/// The content of a raw string or number, else nothing; `None` for half a surrogate pair.
pub(super) fn scalar(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let inner = &raw[1..raw.len() - 1];
            if inner.as_bytes().contains(&b'\\') {
                unescape(inner).map(Cow::Owned)
            } else {
                Some(Cow::Borrowed(inner))
            }
        }
        Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(raw)),
        _ => Some(Cow::Borrowed("")),
    }
}
