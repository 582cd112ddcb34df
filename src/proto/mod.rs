//! One file per language that we speak.
