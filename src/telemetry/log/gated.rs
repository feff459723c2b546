//! The lines that pass a gate.

/// Emits a gated event. The first line is at WARN, and a suppressed one at DEBUG.
macro_rules! gated {
    ($target:expr, $suppressed:expr, { $($fields:tt)* }, $message:literal) => {
        match $suppressed {
            Some(suppressed) => warn!(
                target: $target,
                { $($fields)*, { field::SUPPRESSED } = Some(suppressed).filter(|it| *it > 0) },
                $message
            ),
            None => debug!(target: $target, { $($fields)* }, $message),
        }
    };
}
