//! Shapes that other crates define.

pub use fourfold_http::h1::Limits;
pub use fourfold_http::path::PathRules;
pub use fourfold_http::route::{Router, Spec};
pub use fourfold_l4::Cidrs;
