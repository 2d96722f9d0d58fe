//! What a projection may make, charged before it is made.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "sizes of values in memory; the charge is never below what was made of it"
)]

use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::spec::{Decode, Format, ObjectSource};
use keyward_core::{Code, Content, Error, Fetched, Result, SecretBytes};

use crate::content::{Converted, MAX_CONTENT};

/// Watches over one projection: what it makes is charged to a pod's account by its upper bound before it is made, and
/// what its files hold together stays below the limit of a volume. The first refusal ends the projection.
pub struct Meter {
    charge: Charge,
    /// What was made and is held.
    made: usize,
    payload: usize,
    most_payload: usize,
}

impl Meter {
    /// A meter that charges `account` and lets files hold `most_payload` bytes together.
    #[must_use]
    pub fn new(account: &Account, most_payload: usize) -> Self {
        Self { charge: account.take(Kind::Rendering, 0), made: 0, payload: 0, most_payload }
    }

    /// A meter without limits.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(&Account::unlimited(), usize::MAX)
    }

    /// Makes room for work that holds at least `least` and at most `most` bytes while it runs, and says how much it may
    /// hold: it must stop there.
    ///
    /// # Errors
    /// `KW_NO_SPACE`.
    pub(crate) fn begin(&mut self, least: usize, most: usize) -> Result<usize> {
        let (least, most) = (self.made.saturating_add(least), self.made.saturating_add(most));
        self.charge.resize_up_to(least, most)?;
        Ok(self.charge.amount() - self.made)
    }

    /// Notes what became of the work: `made` bytes are held from now on.
    ///
    /// # Errors
    /// `KW_NO_SPACE` when that is more than was reserved, and there is no room for it.
    pub(crate) fn end(&mut self, made: usize) -> Result<()> {
        let made = self.made.saturating_add(made);
        self.charge.resize(made)?;
        self.made = made;
        Ok(())
    }

    /// Counts what goes into files.
    ///
    /// # Errors
    /// `KW_NO_SPACE` when the files of the volume would hold more than allowed.
    pub(crate) fn count(&mut self, payload: usize) -> Result<()> {
        self.payload = self.payload.saturating_add(payload);
        if self.payload <= self.most_payload {
            return Ok(());
        }
        let most = self.most_payload;
        Err(Error::new(
            Code::NoSpace,
            format!(
                "the volume's files have more bytes than `limits.bytesPerVolume` ({most}) allows; declare fewer \
                 objects or smaller templates, or ask the administrator for more"
            ),
        ))
    }

    /// The charge for what was made, to be held as long as it is.
    pub(crate) fn finish(self) -> Charge {
        self.charge
    }
}

/// The most bytes that converting `fetched` holds at a time beside the value itself: nothing where it is delivered as it
/// is. A conversion takes the value apart, puts it together, and gives at most [`MAX_CONTENT`].
pub(crate) fn bound(source: &ObjectSource, fetched: Option<&Fetched>) -> usize {
    let Some(fetched) = fetched else { return 0 };
    let as_it_is = source.key.is_none() && source.decode == Decode::None && source.format == Format::Raw;
    let length = match &fetched.content {
        Content::Secret { .. } if as_it_is => return 0,
        Content::Secret { value, .. } => value.len(),
        Content::Key { jwk } => jwk.len(),
        Content::Certificate(content) => {
            content.leaf_der.len() + content.bundle.as_ref().map_or(0, |(_, bundle)| bundle.len())
        }
    };
    length.saturating_mul(8).saturating_add(64 << 10).min(4 * MAX_CONTENT)
}

/// Bytes of a conversion's result that are not those of the fetched value itself.
pub(crate) fn made(converted: &Converted, fetched: Option<&Fetched>) -> usize {
    let shared = |value: &SecretBytes| match fetched.map(|fetched| &fetched.content) {
        Some(Content::Secret { value: original, .. }) => {
            value.expose().as_ptr() == original.expose().as_ptr()
        }
        _ => false,
    };
    let pair = converted.pair.iter().flat_map(|(certificates, key)| [certificates, key]);
    let made = std::iter::once(&converted.value).chain(pair).filter(|value| !shared(value));
    made.map(SecretBytes::len).sum()
}
