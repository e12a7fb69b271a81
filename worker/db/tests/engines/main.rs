//! The same promises on every engine, each against a real one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "shared with the tests of the whole server")]

#[path = "../../../../tests/support/databases.rs"]
mod databases;
#[path = "../../../../tests/support/ports.rs"]
mod ports;
mod support;

mod outages;
mod tables;
mod values;

use databases::{Engine, Mode};
use support::Place;

/// A test function for each engine.
macro_rules! on_every_engine {
    ($($promise:ident),* $(,)?) => {
        $(mod $promise {
            use crate::{Engine, Mode, Place};

            #[test]
            fn mariadb() {
                super::$promise(&mut Place::server(Engine::MariaDb, Mode::default()));
            }

            #[test]
            fn postgresql() {
                super::$promise(&mut Place::server(Engine::PostgreSql, Mode::default()));
            }

            #[test]
            fn sqlite() {
                super::$promise(&mut Place::sqlite());
            }
        })*
    };
}
pub(crate) use on_every_engine;
