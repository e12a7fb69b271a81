//! What this version does not do yet. The whole list: a step that gets built is taken out of here and nowhere else.
//!
//! A key of this list is read and checked like every other. Where it is set to something that needs what is missing,
//! it is reported, and its channel, or the server for a key of the service, does not start: nothing that a file asks
//! for is silently left undone.

use crate::problem::Spot;
use crate::raw::read::Key;
use crate::raw::{Channel, Service};

/// Something that is set and not built: what to call it, and where it stands.
pub(crate) struct Unbuilt {
    /// What is missing.
    pub(crate) what: String,
    /// Where it is asked for.
    pub(crate) spot: Spot,
}

/// What a service asks for: at present nothing that is missing.
pub(crate) fn of_service(_raw: &Service) -> Vec<Unbuilt> {
    Vec::new()
}

/// What a channel asks for: at present nothing that is not built.
pub(crate) fn of_channel(_raw: &Channel) -> Vec<Unbuilt> {
    Vec::new()
}

fn set(found: &mut Vec<Unbuilt>, what: &str, spot: Option<&Spot>) {
    found.extend(spot.map(|spot| Unbuilt { what: what.to_owned(), spot: spot.clone() }));
}

fn given<T>(key: &Key<T>) -> Option<&Spot> {
    key.given().map(|at| &at.spot)
}
