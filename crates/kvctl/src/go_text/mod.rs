//! Text as Go prints and reads it: etcdctl's output and input are Go's, to the byte.

pub(crate) mod argify;
pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod quote;
