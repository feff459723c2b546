//! The faults of the servers, one after the other. They are the same for each storefront.

use std::{io, time::Duration};

use crate::{
    servers::{Fault, Servers},
    storefront::Storefront,
};

/// A part of the script. Each one ends the fault of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Healthy,
    RecommendationsHang,
    /// They still hang, and an operator has switched them off.
    RecommendationsOff,
    RatesDown,
    /// The socket and all connections of the first shop are closed.
    ShopKilled,
    /// The first shop is back. The second one hangs.
    ShopHangs,
    /// Payments are made, but the first response to each customer is lost.
    ResponsesLost,
    Recovered,
}

impl Phase {
    pub(crate) const ALL: [Self; 8] = [
        Self::Healthy,
        Self::RecommendationsHang,
        Self::RecommendationsOff,
        Self::RatesDown,
        Self::ShopKilled,
        Self::ShopHangs,
        Self::ResponsesLost,
        Self::Recovered,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "all is well",
            Self::RecommendationsHang => "recommendations hang",
            Self::RecommendationsOff => "they are switched off",
            Self::RatesDown => "rates are down",
            Self::ShopKilled => "a shop is killed",
            Self::ShopHangs => "another shop hangs",
            Self::ResponsesLost => "payments get no response",
            Self::Recovered => "all is well again",
        }
    }

    pub(crate) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Recovered => 1_000,
            Self::Healthy | Self::RecommendationsOff => 1_500,
            _ => 2_500,
        })
    }

    /// Ends the fault of the phase before, and makes the fault of this one.
    pub(crate) async fn begin(
        self,
        servers: &Servers,
        storefront: &impl Storefront,
    ) -> io::Result<()> {
        let Servers { shops: [first, second, _], rates, recommendations, payments, .. } = servers;
        match self {
            Self::Healthy => {}
            Self::RecommendationsHang => recommendations.set(Fault::Hangs),
            Self::RecommendationsOff => storefront.switch_recommendations(false),
            Self::RatesDown => {
                recommendations.set(Fault::None);
                storefront.switch_recommendations(true);
                rates.set(Fault::Unavailable);
            }
            Self::ShopKilled => {
                rates.set(Fault::None);
                first.kill().await?;
            }
            Self::ShopHangs => {
                first.revive()?;
                second.set(Fault::Hangs);
            }
            Self::ResponsesLost => {
                second.set(Fault::None);
                payments.set(Fault::LosesResponses);
            }
            Self::Recovered => payments.set(Fault::None),
        }
        Ok(())
    }
}
