//! The name of a stack.

use super::builder::Stack;
#[cfg(feature = "http")]
use crate::telemetry::Reporters;
use crate::{error::Name, telemetry::Registry};

impl<Slots, C> Stack<Slots, C> {
    /// Sets the name of the stack in errors, spans and events.
    ///
    /// Default: none. Each layer then has its kind as its name, such as `bulkhead`. An empty name
    /// is none.
    ///
    /// The name is usually that of the dependency. It is the name of every layer in the stack that
    /// has no name of its own. In events, [`KIND`](crate::telemetry::field::KIND) tells the layers
    /// apart. A layer that is in several stacks takes the name of the first named one that is put
    /// around a service. Give such a layer a name of its own.
    ///
    /// ```
    /// use buttress::{Stack, retry::ReplayClones};
    /// use std::time::Duration;
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # use std::{future::pending, io};
    /// # let hangs = tower::service_fn(|_: u32| pending::<Result<u32, io::Error>>());
    /// let orders = Stack::standard(ReplayClones)
    ///     .name("orders")
    ///     .total_timeout(Duration::from_secs(1))
    ///     .service(hangs);
    /// let error = orders.oneshot(7).await.unwrap_err();
    /// assert_eq!(error.to_string(), "orders (total): timed out after 1s");
    /// # }
    /// ```
    pub fn name(self, name: impl Into<Name>) -> Self {
        Self { reporters: self.reporters.named(name.into()), ..self }
    }

    /// Registers the stack and each layer in it.
    ///
    /// Default: none. Nothing is counted then.
    ///
    /// Name the stack too. The calls of all stacks without a name count together, as `call`. Their
    /// layers have no stack. A layer counts for the first registered stack with it that is put
    /// around a service. The order of this setter and the others does not matter.
    ///
    /// ```
    /// use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress::Error<std::io::Error>> {
    /// # let client = tower::service_fn(|x: u32| async move { Ok::<_, std::io::Error>(x) });
    /// let registry = Registry::new();
    /// let stack = Stack::standard(ReplayClones).name("orders").register(&registry);
    /// let orders = stack.service(client);
    /// orders.oneshot(7).await?;
    /// for family in registry.gather() {
    ///     println!("{}: {} series", family.instrument.name, family.series.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn register(self, registry: &Registry) -> Self {
        Self { reporters: self.reporters.registered(registry), ..self }
    }

    /// Returns the names and the registry of the stack.
    #[cfg(feature = "http")]
    pub(crate) fn reporters(&self) -> &Reporters {
        &self.reporters
    }
}
