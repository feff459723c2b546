/// The kind of a layer. It tells the layers of a stack apart, which may all have its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The stack itself, whose calls have a span.
    Call,
    TotalTimeout,
    AttemptTimeout,
    /// A timeout outside of a stack.
    Timeout,
    Retry,
    Fallback,
    Bulkhead,
    CircuitBreaker,
    Idempotency,
    Chaos,
    Endpoints,
    Cache,
    #[cfg(feature = "http")]
    Client,
    #[cfg(feature = "http")]
    Server,
    #[cfg(feature = "http")]
    Body,
    #[cfg(feature = "http")]
    IdleBody,
    #[cfg(feature = "http")]
    UnreadBody,
    #[cfg(feature = "http")]
    ReplayBody,
}

impl Kind {
    /// The number of kinds.
    #[cfg(all(test, feature = "http"))]
    pub(super) const COUNT: usize = 18;

    /// Returns the kind as one word. It is also the default name of a layer.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::TotalTimeout => "total_timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Timeout => "timeout",
            Self::Retry => "retry",
            Self::Fallback => "fallback",
            Self::Bulkhead => "bulkhead",
            Self::CircuitBreaker => "circuit_breaker",
            Self::Idempotency => "idempotency",
            Self::Chaos => "chaos",
            Self::Endpoints => "endpoints",
            Self::Cache => "cache",
            #[cfg(feature = "http")]
            Self::Client => "client",
            #[cfg(feature = "http")]
            Self::Server => "server",
            #[cfg(feature = "http")]
            Self::Body => "response_body",
            #[cfg(feature = "http")]
            Self::IdleBody => "idle_response_body",
            #[cfg(feature = "http")]
            Self::UnreadBody => "unread_response_body",
            #[cfg(feature = "http")]
            Self::ReplayBody => "replay_body",
        }
    }

    /// Returns the word that tells two layers of one stack apart, after their common name.
    pub(super) const fn part(self) -> Option<&'static str> {
        match self {
            Self::TotalTimeout => Some("total"),
            Self::AttemptTimeout => Some("attempt"),
            _ => None,
        }
    }
}
