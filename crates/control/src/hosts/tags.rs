//! Words that operators tell hosts apart by.

use sandbar_types::{Id, id};

use super::{HostError, InvalidHost};
use crate::{Control, OpContext};

/// Longest tag, in bytes.
const TAG_BYTES: usize = 64;
/// Most tags of one host.
const TAGS: i64 = 50;

impl Control {
    /// A host's tags, in order.
    pub async fn host_tags(&self, ctx: &OpContext, id: Id<id::Host>) -> Result<Vec<String>, HostError> {
        self.host_seen(ctx, id).await?;
        Ok(self.store().host_tags(id).await?)
    }

    /// Gives a host a tag, and says which it has now. One that it has is given again.
    pub async fn host_tag_add(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        tag: &str,
    ) -> Result<Vec<String>, HostError> {
        check(tag)?;
        let mut tx = self.store().begin().await?;
        self.host_access(&mut tx, ctx, id).await?;
        if !tx.host_tag_add(id, tag, TAGS).await? {
            return Err(InvalidHost::TooManyTags(TAGS).into());
        }
        tx.commit().await?;
        Ok(self.store().host_tags(id).await?)
    }

    /// Takes a tag from a host.
    pub async fn host_tag_remove(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        tag: &str,
    ) -> Result<(), HostError> {
        let mut tx = self.store().begin().await?;
        self.host_access(&mut tx, ctx, id).await?;
        if !tx.host_tag_remove(id, tag).await? {
            return Err(HostError::NoSuchTag { tag: tag.to_owned() });
        }
        Ok(tx.commit().await?)
    }
}

fn check(tag: &str) -> Result<(), InvalidHost> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._:=/-".contains(&b);
    let fits = (1..=TAG_BYTES).contains(&tag.len()) && tag.bytes().all(good);
    if fits { Ok(()) } else { Err(InvalidHost::Tag) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_bounded() {
        for good in ["gpu", "rack=12", "eu/west-1", &"t".repeat(64)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "ä", "a\n", "<b>", &"t".repeat(65)] {
            assert_eq!(check(bad), Err(InvalidHost::Tag), "{bad:?}");
        }
    }
}
