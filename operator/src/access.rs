//! What the operator may do at the API server, in one table. The roles in `operator/rbac.yaml` and in the chart are generated
//! from it, and the audit log of the control-plane test must show every one of these verbs and no other.

/// Verbs on resources of one API group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural names, with the subresource after a slash.
    pub resources: &'static [&'static str],
    /// Verbs of the API.
    pub verbs: &'static [&'static str],
    /// What needs it, for whoever reviews the role.
    pub why: &'static str,
    /// Where the use of it can be seen.
    pub seen: Seen,
}

/// Where the use of a right can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As a request in the audit log.
    Request,
    /// Nowhere: an admission plugin asks for it while it judges another request.
    Admission,
}

/// Everything that the operator may do. There is no Secret in it: pods mount them by name, and the kubelet reads them.
pub const ACCESS: &[Access] = &[
    Access { group: "graft.dev", resources: &["transferjobs"], verbs: &["list", "watch"], why: "The jobs themselves.", seen: Seen::Request },
    Access {
        group: "graft.dev",
        resources: &["transferjobs/status"],
        verbs: &["patch"],
        why: "Their status; nothing else of them is ever written.",
        seen: Seen::Request,
    },
    Access {
        group: "graft.dev",
        resources: &["transferjobs/finalizers"],
        verbs: &["update"],
        why: "Children that block their owner's deletion need this where OwnerReferencesPermissionEnforcement is on.",
        seen: Seen::Admission,
    },
    Access {
        group: "batch",
        resources: &["jobs"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "The gangs. Server-side apply of a new object needs create and patch.",
        seen: Seen::Request,
    },
    Access {
        group: "",
        resources: &["services", "configmaps"],
        verbs: &["create", "patch", "delete"],
        why: "The names of a gang's pods and their configuration.",
        seen: Seen::Request,
    },
    Access {
        group: "networking.k8s.io",
        resources: &["networkpolicies"],
        verbs: &["create", "patch", "delete"],
        why: "Who may speak to a gang's pods.",
        seen: Seen::Request,
    },
    Access { group: "", resources: &["pods"], verbs: &["list", "watch"], why: "How the gangs are.", seen: Seen::Request },
    Access {
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        why: "What is told about a job; patch counts one that repeats.",
        seen: Seen::Request,
    },
];

/// What it may do besides where `/metrics` is served to the authorized only, in a role of its own: reviews have no namespace.
pub const SCRAPES: &[Access] = &[
    Access {
        group: "authentication.k8s.io",
        resources: &["tokenreviews"],
        verbs: &["create"],
        why: "Whose token a scrape carries.",
        seen: Seen::Request,
    },
    Access {
        group: "authorization.k8s.io",
        resources: &["subjectaccessreviews"],
        verbs: &["create"],
        why: "Whether they may read /metrics.",
        seen: Seen::Request,
    },
];

/// What `graft-operator trial` may do, under a service account of its own that lives as long as `helm test`.
pub const TRIAL: &[Access] = &[Access {
    group: "graft.dev",
    resources: &["transferjobs"],
    verbs: &["create", "get", "delete"],
    why: "The job of the test: made, looked at, and deleted.",
    seen: Seen::Request,
}];

/// What `graft-operator stop` may do to the jobs, under a service account of its own that lives as long as its hook.
pub const STOP: &[Access] = &[
    Access { group: "graft.dev", resources: &["transferjobs"], verbs: &["list"], why: "The jobs whose gangs are stopped.", seen: Seen::Request },
    Access {
        group: "graft.dev",
        resources: &["transferjobs/status"],
        verbs: &["patch"],
        why: "That they are stopped, and go on with the next operator.",
        seen: Seen::Request,
    },
    Access { group: "batch", resources: &["jobs"], verbs: &["list", "delete"], why: "The gangs.", seen: Seen::Request },
    Access {
        group: "",
        resources: &["services", "configmaps"],
        verbs: &["delete"],
        why: "The names of a gang's pods and their configuration.",
        seen: Seen::Request,
    },
    Access {
        group: "networking.k8s.io",
        resources: &["networkpolicies"],
        verbs: &["delete"],
        why: "Who spoke to a gang's pods.",
        seen: Seen::Request,
    },
    Access { group: "", resources: &["pods"], verbs: &["list"], why: "Whether the gangs still run.", seen: Seen::Request },
];

/// What it may do besides in the operator's own namespace. The chart lets it scale the operator and nothing else: the last rule
/// gets the Deployment's name there.
pub const STOP_OPERATOR: &[Access] = &[
    Access { group: "", resources: &["pods"], verbs: &["list"], why: "Whether the operator still runs.", seen: Seen::Request },
    Access {
        group: "apps",
        resources: &["deployments/scale"],
        verbs: &["patch"],
        why: "The operator goes first, or it would start again what is stopped.",
        seen: Seen::Request,
    },
];

/// A table as the `rules` of a role, in YAML.
#[must_use]
pub fn rules(table: &[Access]) -> String {
    table
        .iter()
        .map(|a| {
            let group = if a.group.is_empty() { "\"\"" } else { a.group };
            let (resources, verbs) = (a.resources.join(", "), a.verbs.join(", "));
            format!("# {}\n- apiGroups: [{group}]\n  resources: [{resources}]\n  verbs: [{verbs}]\n", a.why)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_no_wildcard_and_nothing_twice() {
        // Each of these belongs to one service account, but for pods, which are in two roles of one.
        for table in [[ACCESS, SCRAPES].concat(), TRIAL.to_vec(), STOP.to_vec(), STOP_OPERATOR.to_vec()] {
            let mut all = Vec::new();
            for access in &table {
                for resource in access.resources {
                    assert!(!resource.contains("secret") && !resource.contains('*') && !access.verbs.contains(&"*"), "{access:?}");
                    all.extend(access.verbs.iter().map(|verb| (access.group, *resource, *verb)));
                }
            }
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }
}
