//! Checks of the repository itself: its pages, its runbook, and the imports of its files.

mod docs;
mod layout;
mod runbook;
