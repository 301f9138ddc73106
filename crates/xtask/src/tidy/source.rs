//! Rules inside a Rust file, read with a parser so that comments, strings and test modules do not count.

use super::Finding;
use super::rings::{Ring, ring_of};
use crate::workspace;
use anyhow::{Context, Result};
use proc_macro2::{Span, TokenStream, TokenTree};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Crates (folders under `crates/`) that may say `unsafe` and `libc`, and why.
const SEAM: &[(&str, &str)] = &[
    ("sys", "the one seam to the kernel"),
    ("testkit", "plays the outside world in tests: signals, namespaces, sockets of its own"),
];

/// Paths that bring the machine into a pure crate, and what to do instead.
const NOT_IN_RING_0: &[(&[&str], &str)] = &[
    (&["std", "fs"], "files belong to sys or a program: take the text as an argument"),
    (&["std", "thread"], "threads belong to the engine"),
    (&["std", "process"], "processes belong to programs"),
    (&["std", "env"], "the environment belongs to programs: take the value as an argument"),
    (&["Instant", "now"], "take `now` as an argument"),
    (&["SystemTime"], "take `now` as an argument"),
    (&["TcpStream"], "sockets belong to sys"),
    (&["TcpListener"], "sockets belong to sys"),
    (&["UdpSocket"], "sockets belong to sys"),
    (&["UnixStream"], "sockets belong to sys"),
    (&["rand"], "take a seed and use base's generator"),
    (&["RandomState"], "hash with a seed that is passed in"),
];

pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

pub struct Source {
    pub path: PathBuf,
    pub lines: usize,
    /// Functions outside tests, with a body.
    pub functions: Vec<Function>,
    file: syn::File,
    place: FilePlace,
}

/// Where a file stands, which decides the rules it is under.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FilePlace {
    /// The folder under `crates/`, empty elsewhere.
    crate_folder: String,
    /// Under `src/`, and not a module that exists for tests only.
    shipped: bool,
    crate_root: bool,
    /// Stands outside Fourfold and speaks to the kernel for itself: an example, which is a program of its own, and the
    /// end-to-end tests, which play clients and origins.
    outside: bool,
}

pub fn read_all(files: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")) {
        sources.push(read(path).with_context(|| path.display().to_string())?);
    }
    mark_test_modules(&mut sources);
    for source in &mut sources {
        source.measure();
    }
    Ok(sources)
}

fn read(path: &Path) -> Result<Source> {
    let text = std::fs::read_to_string(workspace::root().join(path))?;
    let file = syn::parse_file(&text).context("not parsable as Rust")?;
    Ok(Source {
        path: path.into(),
        lines: text.lines().count(),
        functions: Vec::new(),
        file,
        place: FilePlace::of(path),
    })
}

/// `#[cfg(test)] mod tests;` makes another file, and what lies below it, test code.
fn mark_test_modules(sources: &mut [Source]) {
    let mut test_files = HashSet::new();
    for source in sources.iter() {
        for item in &source.file.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
                && is_test_only(&module.attrs)
            {
                test_files.insert(module_base(&source.path).join(module.ident.to_string()));
            }
        }
    }
    for source in sources {
        let stem = module_base(&source.path);
        if stem.ancestors().any(|ancestor| test_files.contains(ancestor)) {
            source.place.shipped = false;
        }
    }
}

/// The folder in which the modules of this file live: `a/lib.rs` and `a/mod.rs` -> `a`, `a/b.rs` -> `a/b`.
fn module_base(path: &Path) -> PathBuf {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") => path.parent().unwrap_or(path).to_path_buf(),
        _ => path.with_extension(""),
    }
}

impl FilePlace {
    fn of(path: &Path) -> FilePlace {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        match parts.as_slice() {
            ["crates", folder, "src", rest @ ..] => FilePlace {
                crate_folder: (*folder).into(),
                shipped: true,
                crate_root: matches!(rest, ["lib.rs" | "main.rs"]),
                outside: false,
            },
            ["crates", folder, kind, ..] => FilePlace {
                crate_folder: (*folder).into(),
                shipped: false,
                crate_root: false,
                outside: *kind == "examples" || (*folder == "cli" && *kind == "tests"),
            },
            _ => FilePlace { crate_folder: String::new(), shipped: false, crate_root: false, outside: false },
        }
    }

    fn ring(&self) -> Option<Ring> {
        match self.crate_folder.as_str() {
            "cli" => Some(Ring::Programs),
            "xtask" => Some(Ring::Free),
            folder => ring_of(&format!("fourfold-{folder}")),
        }
    }

    fn is_seam(&self) -> bool {
        SEAM.iter().any(|(folder, _)| *folder == self.crate_folder)
    }
}

impl Source {
    fn measure(&mut self) {
        if self.place.shipped {
            let mut lengths = Lengths { functions: Vec::new() };
            lengths.visit_file(&self.file);
            self.functions = lengths.functions;
        }
    }

    pub fn check(&self) -> Vec<Finding> {
        let mut rules = Rules { place: &self.place, hits: Vec::new() };
        rules.visit_file(&self.file);
        let mut hits = rules.hits;
        if self.place.crate_root && self.place.ring() == Some(Ring::Pure) && !forbids_unsafe(&self.file) {
            hits.push((1, "a pure crate starts with #![forbid(unsafe_code)]".into()));
        }
        hits.sort();
        hits.dedup();
        hits.into_iter().map(|(line, what)| Finding { path: self.path.clone(), line, what }).collect()
    }
}

fn forbids_unsafe(file: &syn::File) -> bool {
    file.attrs.iter().any(|attribute| {
        attribute.path().is_ident("forbid")
            && attribute.parse_args::<syn::Path>().is_ok_and(|lint| lint.is_ident("unsafe_code"))
    })
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]` or `#[test]`.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| requires_test(list.tokens.clone()))
    })
}

/// Whether a `cfg` predicate holds in test builds only. `not(test)` and `any(test, …)` ship.
fn requires_test(predicate: TokenStream) -> bool {
    let mut trees = predicate.into_iter();
    match (trees.next(), trees.next()) {
        (Some(TokenTree::Ident(word)), None) => word == "test",
        (Some(TokenTree::Ident(word)), Some(TokenTree::Group(group))) if word == "all" => {
            let inside: Vec<TokenTree> = group.stream().into_iter().collect();
            inside
                .split(|tree| matches!(tree, TokenTree::Punct(comma) if comma.as_char() == ','))
                .any(|part| requires_test(part.iter().cloned().collect()))
        }
        _ => false,
    }
}

fn item_attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        _ => &[],
    }
}

struct Lengths {
    functions: Vec<Function>,
}

impl Lengths {
    fn add(&mut self, signature: &syn::Signature, whole: Span) {
        let (start, end) = (signature.span().start().line, whole.end().line);
        self.functions.push(Function {
            name: signature.ident.to_string(),
            line: start,
            lines: end - start + 1,
        });
    }
}

impl<'ast> Visit<'ast> for Lengths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(item_attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig, body.span());
        }
        visit::visit_trait_item_fn(self, function);
    }
}

struct Rules<'a> {
    place: &'a FilePlace,
    hits: Vec<(usize, String)>,
}

impl Rules<'_> {
    fn hit(&mut self, span: Span, what: String) {
        self.hits.push((span.start().line, what));
    }

    fn unsafe_at(&mut self, span: Span) {
        if !self.place.is_seam() && !self.place.outside {
            self.hit(span, "`unsafe` outside sys: give the operation a safe name there".into());
        }
    }

    /// `names` is a path as written or imported, `std::net::TcpStream` say.
    fn path_at(&mut self, names: &[String], span: Span) {
        let is = |index: usize, word: &str| names.get(index).is_some_and(|name| name == word);
        if is(0, "libc") && self.place.shipped && !self.place.is_seam() {
            self.hit(span, "`libc` outside sys: the kernel has one seam".into());
        }
        if !self.place.shipped || self.place.ring() != Some(Ring::Pure) {
            return;
        }
        for (banned, instead) in NOT_IN_RING_0 {
            let first = if *banned == ["rand"] { 1 } else { names.len() };
            let found =
                (0..first).any(|at| banned.iter().enumerate().all(|(offset, word)| is(at + offset, word)));
            if found {
                self.hit(span, format!("`{}` in a pure crate: {instead}", names.join("::")));
            }
        }
    }

    /// Macro arguments are tokens, not syntax: look for `unsafe` and for `a::b` sequences.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut names: Vec<String> = Vec::new();
        let mut at = Span::call_site();
        let mut joined = false;
        for tree in tokens {
            match tree {
                TokenTree::Ident(word) if word == "unsafe" => self.unsafe_at(word.span()),
                TokenTree::Ident(word) => {
                    if !joined {
                        self.path_at(&std::mem::take(&mut names), at);
                        at = word.span();
                    }
                    names.push(word.to_string());
                    joined = false;
                }
                TokenTree::Punct(colon) if colon.as_char() == ':' => joined = true,
                other => {
                    self.path_at(&std::mem::take(&mut names), at);
                    joined = false;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path_at(&names, at);
    }

    fn use_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.path_at(before, name.span()),
            syn::UseTree::Name(name) => self.path_at(&with(&name.ident), name.span()),
            syn::UseTree::Rename(rename) => self.path_at(&with(&rename.ident), rename.span()),
            syn::UseTree::Glob(star) => self.path_at(before, star.span()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.use_tree(before, item)),
        }
    }
}

impl<'ast> Visit<'ast> for Rules<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test_only(item_attributes(item)) {
            // Tests may read clocks and files; `unsafe` keeps to its place there too.
            let place = FilePlace { shipped: false, ..self.place.clone() };
            let mut inside = Rules { place: &place, hits: Vec::new() };
            visit::visit_item(&mut inside, item);
            self.hits.append(&mut inside.hits);
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {
        // Docs and lint names are not code.
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_at(block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.unsafe_at(token.span);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.unsafe_at(token.span);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path_at(&names, path.span());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let path = Path::new(path);
        let file = syn::parse_file(text).unwrap();
        let source =
            Source { path: path.into(), lines: 0, functions: Vec::new(), file, place: FilePlace::of(path) };
        source.check().into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_found_however_it_is_written() {
        for text in [
            "fn f() { let t = std::time::Instant::now(); }",
            "use std::time::Instant; fn f() { Instant::now(); }",
            "use std::{fs, net};",
            "use std::{net::{IpAddr, TcpStream as S}};",
            "fn f() { println!(\"{:?}\", std::time::SystemTime::now()); }",
            "fn f() -> u8 { rand::random() }",
            "fn f() { std::thread::yield_now() }",
        ] {
            assert_eq!(findings("crates/ports/src/a.rs", text).len().min(1), 1, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_left_alone() {
        for text in [
            "//! Never call `Instant::now()` or std::fs here.\nuse std::time::Instant; fn f(now: Instant) {}",
            "#[cfg(test)] mod tests { fn f() { std::time::Instant::now(); } }",
            "fn operand(strand: u8) { let brand = strand; }",
            "fn f() -> &'static str { \"std::fs::read\" }",
        ] {
            assert_eq!(findings("crates/ports/src/a.rs", text), Vec::<String>::new(), "{text}");
        }
        assert!(findings("crates/sys/src/a.rs", "fn f() { std::time::Instant::now(); }").is_empty());
        assert!(findings("crates/ports/examples/a.rs", "fn f() { std::time::Instant::now(); }").is_empty());
    }

    #[test]
    fn unsafe_and_libc_keep_to_the_seam() {
        let text = "fn f() { unsafe { libc::getpid() }; }";
        assert_eq!(findings("crates/engine/src/a.rs", text).len(), 2);
        assert_eq!(findings("crates/sys/src/a.rs", text).len(), 0);
        assert_eq!(findings("crates/ports/examples/a.rs", text).len(), 0);
        assert_eq!(findings("crates/ports/tests/a.rs", text).len(), 1);
        assert_eq!(findings("crates/engine/src/a.rs", "unsafe impl Send for S {}").len(), 1);
        assert_eq!(findings("crates/engine/src/a.rs", "#[cfg(test)] mod t { unsafe fn f() {} }").len(), 1);
    }

    #[test]
    fn a_pure_crate_forbids_unsafe_at_its_root() {
        assert_eq!(findings("crates/base/src/lib.rs", "mod a;").len(), 1);
        assert_eq!(findings("crates/base/src/lib.rs", "#![forbid(unsafe_code)]\nmod a;").len(), 0);
    }

    #[test]
    fn modules_declared_for_tests_are_not_shipped() {
        let parse = |path: &str, text: &str| Source {
            path: path.into(),
            lines: 0,
            functions: Vec::new(),
            file: syn::parse_file(text).unwrap(),
            place: FilePlace::of(Path::new(path)),
        };
        let mut sources = vec![
            parse("crates/base/src/lib.rs", "#[cfg(test)] mod world; mod wheel;"),
            parse("crates/base/src/world.rs", ""),
            parse("crates/base/src/world/inner.rs", ""),
            parse("crates/base/src/wheel.rs", "#[cfg(not(test))] mod real;"),
            parse("crates/base/src/wheel/real.rs", ""),
        ];
        mark_test_modules(&mut sources);
        let shipped: Vec<bool> = sources.iter().map(|source| source.place.shipped).collect();
        assert_eq!(shipped, [true, false, false, true, true]);
    }
}
