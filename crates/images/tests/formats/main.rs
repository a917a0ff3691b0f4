//! Images in the formats of others, with the tools of others as judges.

mod bmap;
mod export;
mod hostile;
mod qcow2;
mod tools;
