//! The embedded page.

/// The page. It has no names and numbers itself. It gets them from `state.json`.
pub(crate) const PAGE: &str = include_str!("page.html");

/// The content security policy of the page.
///
/// Only its own script and style run, by their digests. It talks only to the server that it comes
/// from, and no text can become markup.
pub(crate) const POLICY: &str = concat!(
    "default-src 'none'; ",
    "script-src 'sha256-u2gEJO8liQXx13F3dbJpCO9ou9w9bCMa53OTcbCdj9s='; ",
    "style-src 'sha256-yU8loaZK2rXfkAGRjl/KQPIUtGedJ+/XiGZnbXgsyMc='; ",
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; ",
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0, |bits, byte| (bits << 8) | u32::from(*byte));
            let bits = bits << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * place)) as usize % 64];
                text.push(if place <= chunk.len() { digit.into() } else { '=' });
            }
        }
        text
    }

    /// Returns the content of the only element with this name.
    fn content(element: &str) -> &'static str {
        let (before, rest) = PAGE.split_once(&format!("<{element}>")).unwrap();
        let (content, after) = rest.split_once(&format!("</{element}>")).unwrap();
        assert!(![before, content, after].iter().any(|it| it.contains(&format!("<{element}"))));
        content
    }

    #[test]
    fn the_policy_allows_the_script_and_the_style_of_the_page() {
        for element in ["script", "style"] {
            let digest = base64(&hmac_sha256::Hash::hash(content(element).as_bytes()));
            let source = format!("{element}-src 'sha256-{digest}'");
            assert!(POLICY.contains(&source), "put this into the policy: {source}");
        }
    }

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        assert!(PAGE.len() < 26_000, "{} bytes", PAGE.len());
        // The name of the format of a drawing is no address.
        let page = PAGE.replace("http://www.w3.org/2000/svg", "");
        for word in ["http:", "https:", "//cdn", "@import", "url(", " src=", "innerHTML", "eval("] {
            assert!(!page.contains(word), "{word}");
        }
        for attribute in [" style=", " onclick=", " onload=", "javascript:"] {
            assert!(!page.contains(attribute), "{attribute}");
        }
    }
}
