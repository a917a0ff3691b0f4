//! The chunk store from outside: what goes in comes out, whatever happens meanwhile.

mod broken_input;
mod cache;
mod capture;
mod crash;
mod damage;
mod full_disk;
mod half_way;
mod helpers;
mod round_trip;
mod sharing;
