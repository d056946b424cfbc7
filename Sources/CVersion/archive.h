// git archive writes the commit here (export-subst of gitattributes(5)), so that a build of a source archive, where no
// git is, knows it too.
#define HF_ARCHIVE_COMMIT "$Format:%H$"
