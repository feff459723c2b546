//! The columns of the table of rejections, and the macros that read its rows.

use std::time::Duration;

/// What one kind of rejection means, whichever layer it comes from.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "http"),
    allow(dead_code, reason = "only a server answers with a status and a time to come back")
)]
pub(super) struct Row {
    /// One word for metrics and logs.
    pub(super) kind: &'static str,
    /// No part of the operation that the request asks for has begun, as far as the rejection tells.
    pub(super) nothing_began: bool,
    /// Something is out of reach or has no room just now, and nothing is wrong with the request.
    pub(super) is_unavailable: bool,
    /// The HTTP status that a server answers with.
    pub(super) http: u16,
    /// The number of the gRPC status that a server answers with.
    pub(super) grpc: u8,
    /// When a server tells its caller to come back.
    pub(super) come_back: ComeBack,
}

/// When a server tells its caller to come back after a rejection.
#[derive(Clone, Copy, Debug)]
pub(super) enum ComeBack {
    /// The server does not say, even if the rejection carries a time.
    Unstated,
    /// After the time that the rejection carries, if it carries one.
    AsTold,
    /// After a second, the least that `Retry-After` can say: how long calls take is not known.
    InASecond,
}

impl ComeBack {
    /// Returns when to come back; `told` is the time that the rejection carries.
    pub(super) fn after(self, told: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Unstated => None,
            Self::AsTold => told,
            Self::InASecond => Some(Duration::from_secs(1)),
        }
    }
}

impl Row {
    /// Creates a row.
    ///
    /// # Panics
    ///
    /// Panics on numbers that are no failure of HTTP or of gRPC. Rows are constants, so that is an
    /// error of the compiler.
    pub(super) const fn new(
        kind: &'static str,
        nothing_began: bool,
        is_unavailable: bool,
        http: u16,
        grpc: u8,
        come_back: ComeBack,
    ) -> Self {
        assert!(http >= 400 && http < 600, "no HTTP status of a failure");
        assert!(grpc >= 1 && grpc <= 16, "no gRPC status of a failure");
        Self { kind, nothing_began, is_unavailable, http, grpc, come_back }
    }
}

/// Reads the columns of a row; or finds the row in the data of the rejection.
macro_rules! row {
    ([$kind:literal, $($column:expr),+] $data:expr) => {{
        const ROW: Row = Row::new($kind, $($column),+);
        let _ = $data;
        &ROW
    }};
    ([of its reason] $data:expr) => {
        $data.reason().row()
    };
}

/// Defines the enum of rejections. Each has the type of its data, the default name of its layer,
/// and its row.
macro_rules! rejections {
    (
        $(#[$attribute:meta])*
        pub enum $rejection:ident {
            $($(#[$doc:meta])* $variant:ident($data:ident) $layer:literal $row:tt,)+
        }
    ) => {
        $(#[$attribute])*
        pub enum $rejection {
            $($(#[$doc])* $variant($data),)+
        }

        impl $rejection {
            #[cfg(test)]
            pub(super) const VARIANTS: &[&str] = &[$(stringify!($variant)),+];

            fn row(&self) -> &'static Row {
                match self {
                    $(Self::$variant(data) => row!($row data),)+
                }
            }

            fn layer(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $layer,)+
                }
            }

            fn data(&self) -> &dyn Data {
                match self {
                    $(Self::$variant(data) => data,)+
                }
            }
        }

        $(
            impl $data {
                /// What the layer that refused is called.
                pub fn name(&self) -> &str {
                    name_or(self.given_name(), $layer)
                }
            }

            impl From<$data> for $rejection {
                fn from(data: $data) -> Self {
                    Self::$variant(data)
                }
            }
        )+
    };
}

/// Defines the enum of the reasons of the idempotency guard. Each has its row and its message.
macro_rules! idempotency_reasons {
    (
        $(#[$attribute:meta])*
        pub enum $reason:ident {
            $($(#[$doc:meta])* $variant:ident $row:tt $message:literal,)+
        }
    ) => {
        $(#[$attribute])*
        pub enum $reason {
            $($(#[$doc])* $variant,)+
        }

        impl $reason {
            #[cfg(test)]
            pub(super) const VARIANTS: &[&str] = &[$(stringify!($variant)),+];

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$variant => row!($row self),)+
                }
            }
        }

        impl fmt::Display for $reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $message,)+
                })
            }
        }
    };
}

pub(super) use {idempotency_reasons, rejections, row};
