//! The one mount call that no safe library offers.
