//! Shapes that `fourfold-http` and `fourfold-l4` will define.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub line_bytes: u32,
    pub head_bytes: u32,
    pub fields: u16,
    pub trailer_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { line_bytes: 8 << 10, head_bytes: 16 << 10, fields: 100, trailer_bytes: 4 << 10 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathRules;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router;

impl Router {
    #[must_use]
    pub fn new(_: &[Spec]) -> Router {
        Router
    }
}
