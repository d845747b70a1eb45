//! Why children cannot be written.

use crate::controller::build;
use crate::controller::validate::DUPLICATE;

/// Why a child could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The children could not be made.
    #[error("cannot build the children")]
    Build(#[from] build::BuildError),
    /// Somebody else's object has the name.
    #[error("{child} exists already and does not belong to this pipeline: remove or rename it")]
    Taken {
        /// Kind and name.
        child: String,
    },
    /// Another installation has made it meanwhile.
    #[error("{child} belongs to the installation {installation:?}")]
    Foreign {
        /// Kind and name.
        child: String,
        /// Whose it is.
        installation: String,
    },
    /// One with the same topic and group was made at the same moment, and comes first.
    #[error("another pipeline reads the same topic with the same consumer group")]
    Rival,
    /// No number is left for the next live document.
    #[error(
        "the live document has the highest revision that consumers take, and no edit can follow it: delete the pipeline and create it anew"
    )]
    RevisionExhausted,
    /// The API server does not show it.
    #[error("cannot read {child}")]
    Read {
        /// Kind and name.
        child: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server refuses it.
    #[error("cannot write {child}")]
    Write {
        /// Kind and name.
        child: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// Of a child that cannot be read.
    pub(super) fn read(child: &str) -> impl Fn(kube::Error) -> Self + Copy {
        move |source| Self::Read { child: child.to_owned(), source: Box::new(source) }
    }

    /// Of a child that cannot be written.
    pub(super) fn write(child: &str) -> impl Fn(kube::Error) -> Self + Copy {
        move |source| Self::Write { child: child.to_owned(), source: Box::new(source) }
    }

    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Build(_) => "InvalidTemplate",
            Self::Taken { .. } => "NameTaken",
            Self::Foreign { .. } => "Conflict",
            Self::Rival => DUPLICATE,
            Self::RevisionExhausted => "RevisionExhausted",
            Self::Read { source, .. } | Self::Write { source, .. } => match status_code(source) {
                Some(403) => "Forbidden",
                // A webhook that names no code refuses with 400.
                Some(400 | 422) => "ChildRefused",
                _ => "ApiServerError",
            },
        }
    }

    /// Trying again changes nothing before somebody has acted.
    pub fn needs_somebody(&self) -> bool {
        self.reason() != "ApiServerError"
    }

    /// Somebody has written at the same time: what is there must be read again, and nothing is wrong. What another
    /// installation has made shows in the watch soon, and is a reason to refuse the pipeline then, as a rival is.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Write { source, .. } => status_code(source) == Some(409),
            Self::Foreign { .. } | Self::Rival => true,
            _ => false,
        }
    }

    /// See [`may_pass`].
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Read { source, .. } | Self::Write { source, .. } if may_pass(source))
    }
}

/// The API server has too much to do, is in trouble, or cannot be reached: most often for a moment.
pub fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500..),
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_refuses_is_told_in_its_own_words() {
        let status = kube::core::Status::failure("admission webhook denied the request", "Forbidden");
        let error = ApplyError::write("Role a")(kube::Error::Api(status.with_code(403).boxed()));
        let told = crate::problem::chain(&error);
        assert_eq!(told, "cannot write Role a: admission webhook denied the request");
        let error = crate::controller::ReconcileError::from(error);
        assert_eq!(crate::problem::chain(&error), told);
    }
}
