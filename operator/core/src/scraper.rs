//! Who may read `/metrics` where that is asked: what a request must carry, and what is made of the API server's answers. The
//! operator itself knows no user and no right.

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReviewSpec, SubjectAccessReviewStatus};

/// What a scraper must be allowed to `get`, as for every component of Kubernetes.
const PATH: &str = "/metrics";

/// A token of more bytes is none: those of service accounts have about a thousand.
const LONGEST: usize = 16 << 10;

/// The token of an `Authorization` header.
#[must_use]
pub fn bearer(header: Option<&str>) -> Option<&str> {
    let (scheme, token) = header?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST).then_some(token)
}

/// What to ask about the owner of a token; nothing if nobody owns it.
#[must_use]
pub fn question(review: TokenReviewStatus) -> Option<SubjectAccessReviewSpec> {
    if review.authenticated != Some(true) {
        return None;
    }
    let user = review.user?;
    Some(SubjectAccessReviewSpec {
        user: user.username,
        uid: user.uid,
        groups: user.groups,
        extra: user.extra,
        non_resource_attributes: Some(NonResourceAttributes { path: Some(PATH.into()), verb: Some("get".into()) }),
        ..SubjectAccessReviewSpec::default()
    })
}

/// Whether the answer lets the scraper in.
#[must_use]
pub fn allowed(review: &SubjectAccessReviewStatus) -> bool {
    review.allowed && review.denied != Some(true)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    #[test]
    fn only_a_bearer_token_of_a_sane_length_is_one() {
        assert_eq!(bearer(Some("Bearer abc")), Some("abc"));
        assert_eq!(bearer(Some("bearer  abc ")), Some("abc"));
        let long = format!("Bearer {}", "x".repeat(LONGEST + 1));
        for wrong in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic abc"), Some(long.as_str())] {
            assert_eq!(bearer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn nobody_is_asked_about_whose_token_is_not_known() {
        let user = UserInfo { username: Some("u".into()), groups: Some(vec!["g".into()]), ..UserInfo::default() };
        let known = TokenReviewStatus { authenticated: Some(true), user: Some(user.clone()), ..TokenReviewStatus::default() };
        let asked = question(known.clone()).unwrap();
        assert_eq!((asked.user.as_deref(), asked.groups), (Some("u"), Some(vec!["g".to_owned()])));
        assert_eq!(asked.non_resource_attributes.unwrap().path.as_deref(), Some("/metrics"));
        assert_eq!(question(TokenReviewStatus { authenticated: Some(false), ..known.clone() }), None);
        assert_eq!(question(TokenReviewStatus { authenticated: None, ..known.clone() }), None);
        assert_eq!(question(TokenReviewStatus { user: None, ..known }), None);
    }

    #[test]
    fn a_denial_stands_above_a_permission() {
        let yes = SubjectAccessReviewStatus { allowed: true, ..SubjectAccessReviewStatus::default() };
        assert!(allowed(&yes));
        assert!(!allowed(&SubjectAccessReviewStatus { denied: Some(true), ..yes }));
        assert!(!allowed(&SubjectAccessReviewStatus::default()));
    }
}
