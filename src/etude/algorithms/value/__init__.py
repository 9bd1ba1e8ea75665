"""Value functions (lectures 7 and 8): the policy is the argmax."""
