//! `/`: the page for people.

use super::answer::Answer;
use super::request::Request;
use super::{Shown, Site};
use crate::net::address::Address;

/// The answer.
pub(super) fn page(_: &Site, _: &Shown, _: &Request, _: Address) -> Answer {
    Answer::page(String::new(), "")
}
