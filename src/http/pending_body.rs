//! The call data that a response body needs, kept until the response arrives.

use std::{pin::Pin, sync::Arc, time::Duration};

use http::{Method, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{
    ahead::{Ahead, Read},
    body_end::since,
    body_limits::BodyLimits,
    head::{ResponseShape, awaits_status},
    kept::Inner,
    live_body::{Ends, LiveBody, ServedLimits},
    reporters::BodyOwner,
    response_body::ResponseBody,
};
use crate::{call::ambient::Ambient, error::Nanos};

/// The call data that a response body needs, kept until the response arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingBody {
    ambient: Ambient,
    began: Instant,
    shape: ResponseShape,
    ahead: bool,
}

impl PendingBody {
    /// Captures the ambient deadline and attempt, for a call with this method.
    pub(super) fn new(method: &Method, began: Instant) -> Self {
        let shape = ResponseShape::of(method);
        Self { ambient: Ambient::capture(), began, shape, ahead: false }
    }

    /// Wraps the body of a response, so that the call ends with it.
    ///
    /// For gRPC the deadline covers the body up to its last frame. For HTTP it does so only if
    /// `to_the_last` is set.
    pub(super) fn into_response<B: Body>(
        self,
        response: Response<B>,
        grpc: bool,
        to_the_last: bool,
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let bounded = grpc || to_the_last;
        let ends = self.ends(&response, grpc);
        response.map(|body| {
            ResponseBody::live(self.wrap(Inner::Own { body }, ends, bounded, measured, owner))
        })
    }

    /// Does the same for an HTTP response whose body was read ahead.
    pub(super) fn into_read<B: Body>(
        self,
        response: Response<Pin<Box<Ahead<B>>>>,
        read: Read,
        to_the_last: bool,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let ends = if read == Read::Whole { Ends::Here } else { Ends::WithBody };
        // No deadline covers what has arrived already.
        let bounded = to_the_last && read == Read::TooLong;
        // The beginning is not measured, or was measured already.
        let rest = owner.bodies().filter(|_| read == Read::TooLong);
        let measured = rest.map(|_| since(self.began));
        response.map(|body| {
            let mut body = self.wrap(Inner::Ahead { body }, ends, bounded, measured, owner);
            if read == Read::Failed {
                body.fail();
            }
            ResponseBody::live(body)
        })
    }

    /// Does the same at a server, whose caller may never read the response.
    pub(super) fn into_served<B: Body + Send + 'static>(
        self,
        response: Response<B>,
        grpc: bool,
        limits: &ServedLimits,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let bounded = grpc || limits.to_the_last;
        let limited = limits.idle.is_some() || (bounded && self.ambient.deadline().is_some());
        let ends = self.ends(&response, grpc);
        response.map(|body| {
            let inner = match limited && ends != Ends::Here {
                true => Inner::keep(body),
                false => Inner::Own { body },
            };
            let mut body = self.wrap(inner, ends, bounded, None, owner);
            body.watch(limits, limited);
            ResponseBody::live(body)
        })
    }

    /// Returns the instant at which the call began.
    #[inline]
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Lets the body be read ahead.
    pub(super) fn ahead(self, ahead: bool) -> Self {
        Self { ahead, ..self }
    }

    /// Returns whether a body of this response may be read ahead.
    pub(super) fn may_read<B: Body>(&self, response: &Response<B>, grpc: bool) -> bool {
        self.ahead && !grpc && matches!(self.ends(response, grpc), Ends::WithBody)
    }

    /// Returns the limit of the time in which a body is read ahead.
    ///
    /// A deadline ends the call itself.
    pub(super) fn limits_ahead(&self, idle: Option<Duration>) -> BodyLimits {
        BodyLimits { idle, deadline: None, began: self.began }
    }

    #[inline(always)]
    fn ends<B: Body>(&self, response: &Response<B>, grpc: bool) -> Ends {
        let at_head = self.shape.ends_at_head(response.status());
        if at_head || response.body().is_end_stream() {
            Ends::Here
        } else if awaits_status(response, grpc) {
            Ends::WithStatus
        } else {
            Ends::WithBody
        }
    }

    #[inline(always)]
    fn wrap<B: Body>(
        self,
        inner: Inner<B>,
        ends: Ends,
        bounded: bool,
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
    ) -> LiveBody<B> {
        LiveBody::new(inner, (self.ambient, self.began), ends, bounded, measured, owner)
    }
}
