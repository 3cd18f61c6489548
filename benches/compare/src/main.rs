//! compare
fn main(){}
