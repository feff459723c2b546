//! The columns of the table of rejections, and the macros that read its rows.

use std::time::Duration;

/// The meaning of one kind of rejection. It does not depend on the layer that creates it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "http"),
    allow(dead_code, reason = "only a server responds with a status and a retry time")
)]
pub(super) struct Row {
    /// The kind as one word, for metrics and logs.
    pub(super) kind: &'static str,
    /// No part of the requested operation has begun, as far as the rejection knows.
    pub(super) nothing_began: bool,
    /// A service is out of reach or has no room at the moment, and the request is valid.
    pub(super) is_unavailable: bool,
    /// The HTTP status of the server's response.
    pub(super) http: u16,
    /// The number of the gRPC status of the server's response.
    pub(super) grpc: u8,
    /// The time that the server tells its caller to wait.
    pub(super) come_back: ComeBack,
}

/// The time that a server tells its caller to wait after a rejection.
#[derive(Clone, Copy, Debug)]
pub(super) enum ComeBack {
    /// No time, even if the rejection carries one.
    Unstated,
    /// The time that the rejection carries, if it carries one.
    AsTold,
    /// One second, the shortest time in `Retry-After`, because the duration of calls is not known.
    InASecond,
}

impl ComeBack {
    /// Returns the time to wait. `told` is the time that the rejection carries.
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
    /// Panics if a number is not a failure status of HTTP or gRPC. Rows are constants. Therefore
    /// the panic is a compile error.
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

/// Creates a row from its columns, or takes the row of the reason or the outcome in the
/// rejection's data.
macro_rules! row {
    ([$kind:literal, $($column:expr),+] $data:expr) => {{
        const ROW: Row = Row::new($kind, $($column),+);
        let _ = $data;
        &ROW
    }};
    ([of its reason] $data:expr) => {
        $data.reason().row()
    };
    ([of its outcome] $data:expr) => {
        $data.row()
    };
}

/// Defines the enum of rejections. Each variant has the type of its data, the default name of its
/// layer, and its row.
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
            pub(super) const VARIANTS: &[&str] = &[$(stringify!($variant)),+];

            fn row(&self) -> &'static Row {
                match self {
                    $(Self::$variant(data) => row!($row data),)+
                }
            }

            /// Returns a number below [`REASONS`](Self::REASONS) for the reason.
            ///
            /// An idempotency layer has numbers of its own.
            pub(crate) fn reason_index(&self) -> usize {
                enum Index { $($variant),+ }
                if let Self::Idempotency(data) = self {
                    return data.reason() as usize;
                }
                match self {
                    $(Self::$variant(_) => Index::$variant as usize,)+
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
                /// Returns the name of the layer that rejected the call.
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

/// Defines the enum of the idempotency layer's reasons. Each variant has its row and its message.
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
