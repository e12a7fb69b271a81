//! Faults from below: system calls that fail, are interrupted or never return, at each place in turn.

mod clock;
mod disk;
mod inside;
mod limits;
mod network;
mod points;
mod reloads;
mod rig;
