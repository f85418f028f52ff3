//! Kubeconfigs whose user a program tells, as of cloud providers: it is run again each time that its token ends.

use kube_client::config::Kubeconfig;

/// The user of the current context, if a program tells who he is.
pub(crate) fn user(config: &Kubeconfig) -> Option<&str> {
    let current = config.current_context.as_deref()?;
    let context = config.contexts.iter().find(|named| named.name == current)?;
    let user = context.context.as_ref()?.user.as_deref()?;
    let named = config.auth_infos.iter().find(|named| named.name == user)?;
    let auth = named.auth_info.as_ref()?;
    // What is written down goes first, and no program is run.
    let is_known = auth.token.is_some() || auth.token_file.is_some() || auth.password.is_some();
    let provider = auth.auth_provider.as_ref();
    let is_run = provider.is_some_and(|provider| provider.config.contains_key("cmd-path"));
    (is_run || auth.exec.is_some() && !is_known).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Cause: users who are told by a program, and those who are not, or are another context's. Seen: the former alone.
    #[test]
    fn the_user_of_the_current_context_is_looked_at() {
        let exec = || json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "args": ["eks", "get-token"]});
        let gcp = |config: Value| json!({"auth-provider": {"name": "gcp", "config": config}});
        for (own, is_run) in [
            (json!({"exec": exec()}), true),
            (json!({"exec": exec(), "tokenFile": "/token"}), false),
            (json!({"exec": exec(), "token": "t"}), false),
            (json!({"token": "t"}), false),
            (json!({}), false),
            (
                gcp(json!({"cmd-path": "/bin/gcloud", "cmd-args": "config"})),
                true,
            ),
            (gcp(json!({"access-token": "t"})), false),
        ] {
            let text = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "other", "user": {"exec": exec()}}, {"name": "own", "user": own}],
                "contexts": [
                    {"name": "there", "context": {"cluster": "c", "user": "other"}},
                    {"name": "here", "context": {"cluster": "c", "user": "own"}}
                ]
            });
            let config = Kubeconfig::from_yaml(&text.to_string()).unwrap();
            assert_eq!(user(&config), is_run.then_some("own"), "{text}");
        }
    }
}
